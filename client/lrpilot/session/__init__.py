"""The conversation with the server, and going on without it."""
