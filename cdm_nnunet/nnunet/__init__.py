"""Everything that touches nnunetv2."""
