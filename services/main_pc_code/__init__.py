"""The package paths that existing agents import from."""

import twinhost.secure_zmq  # noqa: F401 - randomises routing-ids before an agent makes its own sockets
