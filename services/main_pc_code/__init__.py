"""The package paths that existing agents import from."""

import twinhost.secure_zmq.routing_ids  # noqa: F401 - an agent may make its sockets before it imports the rest
