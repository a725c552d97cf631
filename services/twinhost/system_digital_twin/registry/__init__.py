"""The agents: registration, heartbeats, discovery."""
