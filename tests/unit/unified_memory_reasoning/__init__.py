"""Tests of services/unified_memory_reasoning."""
