"""Events and errors: stored, and published on the feed."""
