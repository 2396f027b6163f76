"""Soft labels: a mentor's distribution over every scored token, live or from disk."""
