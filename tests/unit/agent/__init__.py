"""Tests of services/twinhost/agent."""
