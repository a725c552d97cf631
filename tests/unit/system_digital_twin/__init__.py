"""Tests of services/twinhost/system_digital_twin."""
