"""What one frame holds: the client puts requests into frames, and the server takes them out."""
