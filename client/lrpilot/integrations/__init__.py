"""LRPilot in frameworks that own the training loop, and in loggers. Each module imports its framework, and only it."""
