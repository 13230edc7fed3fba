"""Data: the toy tasks, their preparation, and the input pipeline.

`builders` imports tensorflow_datasets, which takes seconds: import it where it
is used, never here.
"""
