"""Public challenges: what each brings of ROIs, prescriptions, roundings and scores (NumPy only).

The metrics, the evaluation, the comparison and the report know this list, not its entries.
"""

from cdm_nnunet.challenges.challenge import Challenge, Rounding, Score, ScoredCase, Terms
from cdm_nnunet.challenges.gdphmm import GDPHMM
from cdm_nnunet.challenges.openkbp import OPENKBP

CHALLENGES: tuple[Challenge, ...] = (OPENKBP, GDPHMM)

__all__ = ["CHALLENGES", "Challenge", "Rounding", "Score", "ScoredCase", "Terms"]
