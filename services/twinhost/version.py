"""The version of twinhost, in this one place, and the versions of the libraries that the link depends on."""

VERSION = "0.2.0"  # pyproject.toml and the image's tag have the same, and a test compares them


def versions() -> dict[str, str]:
    """Return the version of each, by name."""
    import zmq  # noqa: PLC0415 - VERSION alone needs nothing

    return {"twinhost": VERSION, "pyzmq": zmq.pyzmq_version(), "libzmq": zmq.zmq_version()}


def version_line() -> str:
    """Return what `--version` prints."""
    return ", ".join(f"{name} {version}" for name, version in versions().items())
