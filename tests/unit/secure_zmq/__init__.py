"""Tests of secure_zmq."""
