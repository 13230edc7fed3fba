"""The demo: a page on which one model writes, fills holes and scores texts."""
