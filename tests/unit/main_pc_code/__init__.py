"""Tests of main_pc_code."""
