"""A job as one file, for those who have no server to look at."""
