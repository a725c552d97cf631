"""What both agents share: settings, start and stop, health, HTTP, and the actions that both answer."""
