"""Rollback in PyTorch: what a snapshot remembers, where its copies live, and how all of it is put back in place."""
