"""Where clips come from: one file per kind of source, each ending in our format."""
