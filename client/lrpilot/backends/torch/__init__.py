"""A run in PyTorch's hands."""
