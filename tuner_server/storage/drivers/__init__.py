"""Connections to each kind of database, and what their drivers and files need."""
