"""Everything that touches nnunetv2. Importing it makes our classes known to nnU-Net's look-ups by name."""

from cdm_nnunet.nnunet.registration import register

register()
