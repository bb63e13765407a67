"""DVH metrics, curves and clinical templates, exact, in NumPy."""
