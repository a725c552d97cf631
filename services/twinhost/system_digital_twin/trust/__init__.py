"""Keys that mainpc enrols, trusts, and retires, and the audit log of it."""
