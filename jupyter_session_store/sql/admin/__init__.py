"""What operators do with a whole database: list, prune, rename, copy and import."""
