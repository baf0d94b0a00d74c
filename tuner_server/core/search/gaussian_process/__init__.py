"""The surrogate of a search: a Gaussian process over log LR, averaged over the settings of its hyperparameters."""
