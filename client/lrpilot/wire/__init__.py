"""What client and server must read alike: profiles, divergence, phases, and their messages."""
