"""Twins: a document for each user."""
