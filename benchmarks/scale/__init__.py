"""What a search costs a run that fits no machine of ours: by arithmetic and simulation, with one's own numbers."""
