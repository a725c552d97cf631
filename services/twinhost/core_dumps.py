"""No core dump of a process that holds secret keys: an assertion of libzmq aborts it, and the dump would have them."""

import resource


def forbid_core_dumps() -> None:
    """Have the system write no dump of this process, nor of those that it starts, unless they raise the limit again.

    A handler that the system pipes dumps to, such as systemd-coredump, is called nevertheless, and stores none.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
