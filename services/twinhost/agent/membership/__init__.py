"""What makes an agent a member of the system: known to mainpc, heard by it, and able to ask others."""
