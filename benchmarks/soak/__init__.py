"""A server under the traffic of a long time: what it holds must not grow."""
