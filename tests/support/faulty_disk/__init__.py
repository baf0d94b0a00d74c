"""A disk that fails at one operation, or kills who uses it there: for every operation of a small workload."""
