"""One run under the tuner."""
