"""Measurements of `experiments.benchmark`; each suite is a module."""
