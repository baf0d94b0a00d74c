"""A job's story in sentences: what it did, why, how well, and what is to be expected of it."""
