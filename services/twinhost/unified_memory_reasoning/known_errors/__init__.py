"""Errors that are known by a pattern, what helps, and patterns that are proposed."""
