"""Tests of network_config."""
