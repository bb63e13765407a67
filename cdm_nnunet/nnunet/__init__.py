"""All code that uses nnunetv2. Importing this package registers our classes for nnU-Net's look-ups by name."""

from cdm_nnunet.nnunet.registration import register

register()
