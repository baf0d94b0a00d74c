"""A server from its settings to its end."""
