"""Small trainings of two processes in the frameworks that own the loop."""
