"""Where scenarios come from and how they lie in a table: recorded tracks recombined, traffic made up, labels replayed."""
