"""Inputs that nobody sends: of the request decoder, of the key loader, and of the port itself; `make fuzz`."""
