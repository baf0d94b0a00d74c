"""Policies and forecasters that are not part of LRPilot: installed, from the pages on extending it, or of tests."""
