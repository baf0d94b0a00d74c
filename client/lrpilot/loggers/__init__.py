"""Loggers that show what the tuner does."""
