"""What `experiments.benchmark` times; a module a suite."""
