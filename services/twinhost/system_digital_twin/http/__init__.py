"""What mainpc shows over HTTP, read-only: the state of the system, a stream of it, and a page to look at."""
