"""Tests of services/twinhost/archive."""
