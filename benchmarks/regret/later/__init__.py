"""Which peak LR a run needs after a change in its middle, and what finds it cheaply: judged by an oracle table."""
