"""Forwarding requests to other agents, and resolving claims on operations."""
