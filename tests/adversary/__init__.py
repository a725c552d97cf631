"""Every entry of the adversary's list, played while a legitimate client works, and what that costs it."""
