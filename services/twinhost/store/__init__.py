"""An agent's SQLite database: one writer, group commit, schema versions."""
