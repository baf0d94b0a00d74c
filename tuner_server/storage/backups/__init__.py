"""Copies of databases: made while servers go on, verified, and put back."""
