"""Two hosts, two agents, one ZeroMQ link that is encrypted, authenticated, and never falls back."""
