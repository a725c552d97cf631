"""The troubles of open links: on all hosts, or on one alone, which then can't talk to the others."""

from collections.abc import Iterable, Iterator

from twinhost.agent.troubles import Kind, Level, Remedy, Trouble, start


def open_links(here: str, *, secure: bool, others: Iterable[str], mismatched: Iterable[str]) -> Iterator[Trouble]:
    """Yield a trouble for each host with an open link.

    Args:
        others: the other hosts that answer; on an open link they have one too.
        mismatched: the silent hosts from which handshakes of the other kind come.
    """
    apart = list(mismatched)
    if secure:
        yield from (link_open(host, other=here) for host in apart)
        return
    if apart:
        trouble = link_open(here, other=" and ".join(apart))
        yield trouble
        return
    hosts = (here, *sorted(others))
    yield Trouble(
        kind=Kind.LINK_OPEN,
        subject=here,
        host=here,
        what=f"the link is open on {' and '.join(hosts)}: nobody is authenticated and nothing is encrypted",
        cause=f"SECURE_ZMQ=0 in .env on {' and '.join(hosts)}",
        remedies=tuple(secure_again(host) for host in hosts),
    )


def link_open(host: str, other: str) -> Trouble:
    """Return the trouble of a host whose link is open while that of another host is encrypted: they can't talk."""
    return Trouble(
        kind=Kind.LINK_OPEN,
        subject=host,
        host=host,
        what=f"{host} has an open link (SECURE_ZMQ=0), and {other} an encrypted one, so they can't talk",
        level=Level.BROKEN,
        cause=f"SECURE_ZMQ=0 in .env on {host}",
        remedies=(secure_again(host),),
        explains=tuple(
            trouble
            for each in (host, other)
            for trouble in (
                f"{Kind.HOST_SILENT}:{each}",
                f"{Kind.HOST_STOPPED}:{each}",  # to be started again so
                f"{Kind.REFUSALS}:{each}/unencrypted",
            )
        ),
    )


def secure_again(host: str) -> Remedy:
    """Return the command that encrypts the link of a host."""
    return start(host, "encrypts its link, after you set SECURE_ZMQ=1 in .env there")
