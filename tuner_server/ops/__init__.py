"""What operators see of a server: metrics, probes, logs and traces."""
