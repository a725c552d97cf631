"""mainpc's audit log: hash-chained JSON lines, so that a removed line is detected."""
