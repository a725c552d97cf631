"""Tests of services/twinhost/certificates."""
