"""`doctor`: examines a running deployment from either host, or attacks it."""
