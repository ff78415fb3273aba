"""A clip made again with something changed, and futures that branch off one start."""
