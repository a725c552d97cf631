"""The attention list: what is wrong, since when, why, and the command that fixes it."""
