"""Backup and restore of mainpc's whole state in one file: its database, its audit log, and its keys."""
