"""Several ranks as one."""
