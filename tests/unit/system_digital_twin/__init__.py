"""Tests of services/system_digital_twin."""
