"""A real browser on the dashboard."""
