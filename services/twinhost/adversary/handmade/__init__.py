"""ZMTP and CURVE by hand, on plain TCP: for what libzmq does not tell, and for what it would never do."""
