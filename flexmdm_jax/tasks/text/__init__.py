"""Documents as sequences of tokens."""
