"""Text that people read: names of jobs, and what is shown of texts from elsewhere."""
