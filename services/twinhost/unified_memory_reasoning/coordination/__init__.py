"""Asking other agents for a caller, and deciding whose claim on an operation wins."""
