"""Training: one step for every mesh, and the loop around it."""
