"""Metrics of both hosts, current and historical."""
