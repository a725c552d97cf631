"""The operator's command line: both agents' health, who is connected, and any action, with the operator's key."""
