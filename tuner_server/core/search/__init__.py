"""Which LR is tried next."""
