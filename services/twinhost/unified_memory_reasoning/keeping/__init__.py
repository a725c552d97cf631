"""Who wrote what, what is hidden, backups, and restores."""
