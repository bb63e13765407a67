"""Evaluated models side by side: paired statistics, tables, one HTML file."""
