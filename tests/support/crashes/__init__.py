"""Servers that are killed under load, and clients that check every word they are told."""
