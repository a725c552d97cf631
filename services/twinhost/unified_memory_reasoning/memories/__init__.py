"""Memories that fade, are reinforced, and merge with those of another store."""
