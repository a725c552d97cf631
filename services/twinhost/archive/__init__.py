"""mainpc's whole state in one file, and back: its database, its audit log, and its keys."""
