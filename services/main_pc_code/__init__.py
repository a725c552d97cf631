"""The package paths that existing agents import from."""

import twinhost.secure_zmq  # noqa: F401 - seeds routing-ids: an agent may make its sockets before it imports the rest
