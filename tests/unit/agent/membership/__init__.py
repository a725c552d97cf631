"""Tests of services/twinhost/agent/membership."""
