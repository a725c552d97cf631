"""SQLite with group commit and migrations; stored replies, backups, damage, and the audit log."""
