"""Servers as processes or threads, what stands around them, and how a test speaks to one."""
