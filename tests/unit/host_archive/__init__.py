"""Tests of services/host_archive."""
