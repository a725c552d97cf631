"""Tests of durable_store."""
