"""How a tuner reaches its server."""
