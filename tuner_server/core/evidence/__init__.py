"""What losses say of a run: whether it diverges, keeps its promise or has seen other data, and what follows."""
