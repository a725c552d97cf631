"""The agents' messages as JSON Schema, generated from the types that decode them."""
