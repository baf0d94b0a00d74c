"""Runs that change on the way: what the final loss is when data, batch size, model or length change in the middle."""
