"""What is tuned, in the hands of each framework."""
