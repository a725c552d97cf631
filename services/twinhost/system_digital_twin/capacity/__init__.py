"""What a load would do, where it fits, and leases of memory."""
