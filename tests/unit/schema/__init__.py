"""Tests of message_schema."""
