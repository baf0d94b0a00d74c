"""What was found: a schedule as a file, a plot, an LR scheduler."""
