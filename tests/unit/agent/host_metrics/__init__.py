"""Tests of services/twinhost/agent/host_metrics."""
