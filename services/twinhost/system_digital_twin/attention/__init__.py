"""The attention list: what is wrong, since when, why, and the command that mends it."""
