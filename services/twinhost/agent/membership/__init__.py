"""An agent's membership of the system: the link to mainpc, the outbox, forwarding, and the audit witness."""
