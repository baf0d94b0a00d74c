"""Messages, servers and failures that no sound program would send, as Hypothesis strategies."""
