"""The HTTP routes of mainpc, read-only: the state of the system, a stream of it, and the dashboard."""
