"""What carries out directives, built up one part on another: directives, plans, populations, checkpoints, batches."""
