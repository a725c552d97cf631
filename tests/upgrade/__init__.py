"""Upgrades: today's code opens the volumes that an earlier version's image wrote."""
