"""What a run tells whoever watches it: lines and a bar on a terminal, or in a notebook."""
