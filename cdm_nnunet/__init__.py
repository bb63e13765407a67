"""nnU-Net for radiotherapy dose prediction, trained on clinical DVH metrics.

Importing the package is light: torch and nnunetv2 are imported only by ``cdm_nnunet.losses``, ``cdm_nnunet.nnunet``
and ``cdm_nnunet.trainers``.
"""

__version__ = "0.1.0"
