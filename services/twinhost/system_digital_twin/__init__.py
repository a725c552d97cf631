"""SystemDigitalTwin, on mainpc: it knows the whole system."""
