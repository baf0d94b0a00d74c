"""The dashboard: what jobs did, what it cost and why, in a browser."""
