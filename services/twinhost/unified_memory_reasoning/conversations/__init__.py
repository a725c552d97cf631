"""Interactions of sessions, the context window, and summaries."""
