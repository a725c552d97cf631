"""`keys list`: every key that either agent knows, how long it is good, and who uses it now."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import RenderableType
from rich.text import Text

from twinhost.certificates.acknowledgement import followers
from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson
from twinhost.cli.connect import Settings, load_settings
from twinhost.cli.documents import Peers, Pong, days, duration, read
from twinhost.cli.failures import Failure
from twinhost.cli.keyring import LIVE, Key, KeyReport, Unacknowledged, merge, told_standing, unacknowledged
from twinhost.cli.polling import ask_every_agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.keys import DAY_S, WARN_BEFORE_S

keys = typer.Typer(help="The keys that the agents know; certs-init changes them.")
_FOR_EVER = "no end"
_NO_KEYS = Failure("open_link", "SECURE_ZMQ=0: nobody is authenticated, so the agents go by no keys")


@keys.callback()
def _group() -> None:
    """Keep `list` a command of its own while it is the only one."""


@keys.command("list")
def list_keys(as_json: AsJson = False) -> int:
    """List every key that either agent knows.

    Exit status 1 if an agent can't be asked, so that the list may lack something.
    """
    settings = load_settings()
    by_agent, failures = _ask(settings) if settings.secure else ({}, [_NO_KEYS])
    reports, listed = list(by_agent.values()), merge(list(by_agent.values()))
    behind = _unacknowledged(settings, by_agent, failures)
    if as_json:
        output.show_value(_document(listed, reports, behind, failures), as_json=True)
    elif reports:
        output.show(*_view(listed, reports, behind))
    for failure in failures:
        output.say("warning", output.WARN, f"[{failure.code}]: {failure.sentence}")
    return 1 if failures else 0


def _ask(settings: Settings) -> tuple[dict[str, KeyReport], list[Failure]]:
    def question(client: Client) -> tuple[Peers, str]:
        return read(client.call("get_peers", deadline_s=DEADLINE_S), Peers), read(client.call("ping"), Pong).timestamp

    answers = ask_every_agent(settings, question)
    reports = {one.agent.name: KeyReport(one.agent.host.name, *one.value) for one in answers if one.value}
    return reports, [answer.failure for answer in answers if answer.failure]


def _unacknowledged(
    settings: Settings, by_agent: Mapping[str, KeyReport], failures: list[Failure]
) -> list[Unacknowledged]:
    """Return who has not acknowledged a revocation; where mainpc can't be asked, a failure says so."""
    registry = settings.registry_agent
    mainpc = by_agent.get(registry.name)
    if mainpc is None or not mainpc.peers.revoked:
        return []
    others = {name: report for name, report in by_agent.items() if name != registry.name}
    try:
        with settings.client(registry) as client:
            trust = client.call("get_trust", deadline_s=DEADLINE_S)
            agents = client.call("get_registered_agents", deadline_s=DEADLINE_S)["agents"]
        return unacknowledged(mainpc, others, followers(trust, agents, settings.config), trust["revision"])
    except TwinhostError as error:
        failures.append(Failure.of(error).about(registry.name))
        return unacknowledged(mainpc, others, [], "")


def _document(
    listed: Sequence[Key],
    reports: Sequence[KeyReport],
    behind: Sequence[Unacknowledged],
    failures: Sequence[Failure],
) -> dict[str, Any]:
    verdict: dict[str, Any] = {"status": "ok"}
    if failures:
        verdict = Failure(failures[0].code, "; ".join(failure.sentence for failure in failures)).as_reply()
    return {
        **verdict,
        "keys": [key.as_document() for key in listed if not key.invitation],
        "invitations": [key.as_document() for key in listed if key.invitation],
        "revoked": {report.host: list(report.peers.revoked) for report in reports},
        "unacknowledged": [one.as_document() for one in behind],
    }


def _view(
    listed: Sequence[Key], reports: Sequence[KeyReport], behind: Sequence[Unacknowledged]
) -> list[RenderableType]:
    keys_rows = [_row(key) for key in listed if not key.invitation]
    invitations = [_invitation_row(key) for key in listed if key.invitation]
    columns = ("name", "age", "left", "sessions", "last seen", "standing")
    parts = [output.records(f"Keys ({len(keys_rows)})", columns, keys_rows)]
    if invitations:
        title = f"Open invitations ({len(invitations)})"
        parts.append(output.table(title, ("for", "host", "left", "one-time key"), invitations, whole=("one-time key",)))
    revoked = {fingerprint for report in reports for fingerprint in report.peers.revoked}
    parts.append(output.words("Revoked for ever:", str(len(revoked)), "keys" if len(revoked) != 1 else "key"))
    for one in behind:
        which = "the newest" if one.revoked is None else f"{len(one.revoked)} of them"
        sentence = f"Not acknowledged on {one.host} by {one.agent}: {which}; it may accept what mainpc has revoked"
        parts.append(output.styled(sentence, output.BAD))
    return parts


def _row(key: Key) -> tuple[list[output.Cell], output.Cell]:
    """Return what stands in the columns, and what stands below them: fingerprint, roles, and host."""
    peer = key.peer
    sessions = [f"{count} on {host}" for host, count in key.sessions.items()] or ["none"]
    standing = [
        output.styled(word, output.GOOD if word == LIVE else output.BAD) for word in told_standing(key.standing)
    ]
    cells: list[output.Cell] = [
        peer.name,
        "-" if key.age_s is None else f"{int(max(0.0, key.age_s) // DAY_S)} d",
        _left(key),
        output.lines(*sessions),
        "never" if key.seen_s is None else f"{duration(key.seen_s)} ago",
        output.lines(*standing),
    ]
    return cells, output.styled(f"{peer.fingerprint}  {', '.join(peer.roles)} on {peer.host}", output.FAINT)


def _invitation_row(key: Key) -> list[output.Cell]:
    return [key.peer.name.partition(":")[2], key.peer.host, _left(key), key.peer.fingerprint]


def _left(key: Key) -> Text:
    if key.left_s is None:
        return Text(_FOR_EVER)
    if key.left_s <= 0:
        return output.styled("over", output.BAD)
    soon = key.left_s < WARN_BEFORE_S and not key.invitation  # an invitation is meant to be short
    return output.styled(days(key.left_s), output.WARN if soon else "")
