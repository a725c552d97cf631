"""Full-text search in interactions and memories."""
