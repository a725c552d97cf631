"""Tests of services/host_metrics."""
