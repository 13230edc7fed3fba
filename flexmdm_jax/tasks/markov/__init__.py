"""A hidden Markov language: law, data set, task."""
