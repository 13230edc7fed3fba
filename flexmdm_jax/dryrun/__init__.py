"""Dry runs: what a step costs on devices that are not here."""
