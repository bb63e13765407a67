"""Doses of new cases and patients from trained models, and the choice among trained models."""
