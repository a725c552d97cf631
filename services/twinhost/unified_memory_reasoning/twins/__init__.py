"""Digital twins: what is known about each user."""
