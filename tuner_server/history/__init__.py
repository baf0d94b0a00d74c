"""A job's story, laid out for every face along the steps that were run; `words` tells it."""
