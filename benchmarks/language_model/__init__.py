"""A GPT on bytes of Python source: `budget` with and without bounds, a sweep of linear decays, and what needs no LR."""
