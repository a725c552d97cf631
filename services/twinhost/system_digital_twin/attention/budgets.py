"""The detector of shares of the disk that are nearly used up, of each writer."""

from collections.abc import Iterable, Iterator

from twinhost.agent.disk import near
from twinhost.agent.troubles import Kind, Remedy, Trouble
from twinhost.secure_zmq.budgets import Used
from twinhost.system_digital_twin import ITSELF


def nearly_used(host: str, rows: Iterable[Used]) -> Iterator[Trouble]:
    """Yield a trouble for each writer that will be refused soon, of rows with the largest shares first."""
    by_writer: dict[str, list[Used]] = {}
    for row in near(rows):
        by_writer.setdefault(row.name, []).append(row)
    for writer, used in by_writer.items():
        most = used[0]
        yield Trouble(
            kind=Kind.BUDGET_NEARLY_USED,
            subject=f"{host}/{writer}",
            host=host,
            what=f"{writer} uses {most.share:.0%} of its budget {most.limit} on {host}",
            cause="at 100 % it may store no more; have it delete something, or raise limits.budgets in "
            "config/network_config.yaml",
            remedies=(Remedy("mainpc", f"./twinhost call {ITSELF} health", "shows who uses how much of which budget"),),
            evidence=tuple((row.limit, f"{row.used:.0f} of {row.most:.0f}") for row in used),
            members=tuple(sorted(row.limit for row in used)),
        )
