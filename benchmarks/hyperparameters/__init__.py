"""How the best LR moves with what a user sets beside it."""
