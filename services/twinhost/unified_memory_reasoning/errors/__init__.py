"""Patterns of known errors, their solutions, and proposed patterns."""
