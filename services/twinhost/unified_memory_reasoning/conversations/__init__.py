"""Interactions of sessions, their context windows, and their summaries."""
