"""Model packages: their format, their checks and their model card, without torch; and the models that ship."""
