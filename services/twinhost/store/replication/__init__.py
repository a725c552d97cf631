"""A log of a database's transactions in PostgreSQL, which a standby follows; loaded only where one is configured."""
