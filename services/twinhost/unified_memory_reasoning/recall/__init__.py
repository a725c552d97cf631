"""Finding what was said and stored by its words."""
