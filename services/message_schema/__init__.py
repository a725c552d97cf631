"""The agents' requests as JSON Schema, generated from the types that decode them."""
