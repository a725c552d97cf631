"""What a host's agent says of itself: its health checks that fail, and its warnings, as troubles."""

from collections.abc import Iterable, Iterator

from twinhost.agent.message_shape import message_shape
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble


def failed_checks(host: str, checks: Iterable[tuple[str, str, bool]]) -> Iterator[Trouble]:
    """Yield a trouble for each check that fails: its name, what is wrong, and whether the agent can't serve."""
    for name, fault, essential in checks:
        yield Trouble(
            kind=Kind.CHECK_FAILED,
            subject=f"{host}/{name}",
            host=host,
            what=f"{host}: {fault}",
            level=Level.BROKEN if essential else Level.ATTENTION,
            remedies=(Remedy(host, f"docker compose logs {host}", "shows since when"),),
            evidence=(("check", name),),
        )


def warnings(host: str, sentences: Iterable[str]) -> Iterator[Trouble]:
    """Yield a trouble for each warning; those that differ in a number only are one."""
    for sentence in sentences:
        shape = message_shape(sentence)
        yield Trouble(
            kind=Kind.WARNING, subject=f"{host}/{shape[:80]}", host=host, what=f"{host}: {sentence}", members=(shape,)
        )
