"""Measures of samples, on lengths and tokens alone."""
