"""Evaluations of trained runs, and the tables that compare methods."""
