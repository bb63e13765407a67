"""Scores of predicted doses against reference doses."""
