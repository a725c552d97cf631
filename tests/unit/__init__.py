"""One package at a time, without a network; the folders mirror services/."""
