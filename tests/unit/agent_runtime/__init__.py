"""Tests of services/agent_runtime."""
