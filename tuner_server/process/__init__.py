"""Runs a server, from its settings to its end."""
