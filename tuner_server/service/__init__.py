"""The use cases, and the way from reports to answers."""
