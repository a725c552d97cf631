"""This project's link as it ships beside its peers: `python -m tests.benchmarks.speed`."""
