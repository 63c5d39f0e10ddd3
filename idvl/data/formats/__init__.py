"""What datasets are on disk: each format has a reader that makes a table, whose rows can be taken by index."""
