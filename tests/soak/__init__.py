"""Both agents under half of what they can do, for as long as is asked for; `make soak`."""
