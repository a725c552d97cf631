"""Processes and machines of a deployment with standbys die, hang, or are cut off, while others keep ledgers."""
