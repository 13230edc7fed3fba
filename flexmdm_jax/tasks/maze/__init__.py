"""Planning in a maze: law, data set, layouts, task, score, plots."""
