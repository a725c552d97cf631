"""Tests of services/certificate_tree."""
