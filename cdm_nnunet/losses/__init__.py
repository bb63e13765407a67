"""Differentiable DVH metrics and dose losses (torch)."""
