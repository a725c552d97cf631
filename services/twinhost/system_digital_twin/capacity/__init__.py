"""Load forecasts, placement on hosts, and leases of memory."""
