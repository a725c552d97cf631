"""Measurements, run by hand: they print what they find, and assert nothing about speed."""
