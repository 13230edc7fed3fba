"""Balanced words of brackets: law, data set, task."""
