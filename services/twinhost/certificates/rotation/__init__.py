"""Change a key while it is in use: the next one is told first, the old one is retired last and proven dead."""
