"""Messages of the wire, as values that both sides read alike."""
