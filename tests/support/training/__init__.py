"""Small training runs in PyTorch, and what a run with rolled back probes is compared with."""
