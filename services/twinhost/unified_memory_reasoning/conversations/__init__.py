"""What is said in sessions, what of it is in mind, and what is left of it later."""
