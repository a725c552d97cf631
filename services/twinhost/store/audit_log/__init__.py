"""The audit log of mainpc: hash-chained JSON lines that nothing is taken out of unnoticed."""
