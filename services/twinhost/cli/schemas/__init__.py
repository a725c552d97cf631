"""What an agent's schema says: the command `explain` shows it, and `client` writes a typed client from it."""
