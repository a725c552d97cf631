"""Hand-made ZMTP and the attacks that `doctor --intruder` and the tests run against their own agents.

No ZeroMQ socket is opened here except by the ordinary client: everything hostile is bytes on a TCP connection.
"""
