"""`twinhost inspect`: what an agent's source uses of ZeroMQ, and what replaces it."""
