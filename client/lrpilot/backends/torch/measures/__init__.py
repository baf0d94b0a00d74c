"""What is measured at every step besides the loss, with PyTorch: one measure a file, and what collects them."""
