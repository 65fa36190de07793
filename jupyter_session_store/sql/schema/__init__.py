"""The schema of a database: its revisions, its migrations, and what was there before."""
