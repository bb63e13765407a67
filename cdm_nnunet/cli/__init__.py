"""The command line ``cdm-nnunet``: one verb, one module."""
