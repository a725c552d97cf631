"""Backups of the memory, and restores."""
