"""Commands for whoever runs a server: its settings, its database, its projects and their tokens."""
