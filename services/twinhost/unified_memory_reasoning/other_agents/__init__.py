"""Asking other agents for a caller, and deciding who goes first."""
