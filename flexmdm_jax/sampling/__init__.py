"""Sampling: starts, the step's choices, and the loop."""
