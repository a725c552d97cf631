"""The command line, against agents that serve real sockets on loopback."""
