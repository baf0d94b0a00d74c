"""Random small trainings, which nobody chose: what a newcomer's run may be like."""
