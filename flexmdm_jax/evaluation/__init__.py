"""Judging samples: planning, length laws, pictures."""
