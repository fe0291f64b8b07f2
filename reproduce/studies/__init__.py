"""Experiments of single notebooks, beside the six tables."""
