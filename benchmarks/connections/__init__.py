"""What connections that nobody uses cost those that report."""
