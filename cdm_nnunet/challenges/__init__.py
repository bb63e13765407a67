"""Public challenges: ROIs, prescriptions, roundings and scores of each (NumPy only).

Metrics, evaluation, comparison and report use this list, not its entries.
"""

from cdm_nnunet.challenges.challenge import Challenge, Rounding, Score, ScoredCase, Terms
from cdm_nnunet.challenges.gdphmm import GDPHMM
from cdm_nnunet.challenges.openkbp import OPENKBP

CHALLENGES: tuple[Challenge, ...] = (OPENKBP, GDPHMM)

__all__ = ["CHALLENGES", "Challenge", "Rounding", "Score", "ScoredCase", "Terms"]
