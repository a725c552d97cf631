"""The command line: both agents' health, who is connected, any action, and examinations, with the operator's key."""
