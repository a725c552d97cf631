"""The package paths that existing agents import from."""
