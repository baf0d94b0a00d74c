"""What every room may need."""
