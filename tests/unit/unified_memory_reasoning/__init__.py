"""Tests of services/twinhost/unified_memory_reasoning."""
