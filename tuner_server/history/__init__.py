"""A job's story in words and numbers, for every face."""
