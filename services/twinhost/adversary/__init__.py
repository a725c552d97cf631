"""Hand-made ZMTP and the attacks that `doctor --intruder` and the tests make."""
