"""The tree of keys that certs-init makes: which file lies where, and whether it is right."""
