"""What is a page."""
