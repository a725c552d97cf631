"""Who wrote what, and what is hidden."""
