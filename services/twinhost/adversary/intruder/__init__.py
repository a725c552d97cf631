"""`doctor --intruder`: the adversary's list, played from outside against one's own agents.

No ZeroMQ socket is opened here but by the client that everybody uses: whatever is hostile is bytes
on a TCP connection, written by hand.
"""
