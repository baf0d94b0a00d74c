"""Who may ask, and live streams."""
