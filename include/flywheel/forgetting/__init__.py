"""Forgetting: a client with all that is kept of him, and what no run, champion or hold needs any more."""
