"""Commands that ask what would have been: another schedule, another end, a schedule refined."""
