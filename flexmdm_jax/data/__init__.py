"""Data: documents, tokenizers, chats, records, mixtures and the input pipeline.

`synthetic` imports tensorflow_datasets, which takes seconds: import it where it
is used, never here.
"""
