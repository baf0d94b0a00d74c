"""One small training run in each framework, for the contract suite of backends."""
