"""`memory`: read, back up, restore, and import the memory of pc2, and hide what a caller wrote."""

from twinhost.cli.memory.command import memory

__all__ = ["memory"]
