"""Jobs and trainings that are a few lines of arithmetic: no PyTorch, no server."""
