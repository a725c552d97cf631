"""Events and errors: kept, and published on the feed."""
