"""What both hosts measure, now and over time."""
