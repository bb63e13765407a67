"""Prediction for cases and patients with trained models, and the choice of a model."""
