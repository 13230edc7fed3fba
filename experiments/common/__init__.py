"""Modules that the mains share: error lines, exit codes, and hosts' flags."""
