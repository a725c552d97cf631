"""mainpc's audit log: hash-chained JSON lines, from which nothing can be removed unnoticed."""
