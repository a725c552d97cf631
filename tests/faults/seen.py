"""The table of what was seen: a row for each fault, printed at the end of a run."""

from dataclasses import dataclass

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Row:
    """One fault: `recovered_s` seconds from its end until both agents were healthy, resident bytes by host."""

    fault: str
    acknowledged: int
    recovered_s: float
    resident_before: dict[str, int]
    resident_after: dict[str, int]
    remark: str = ""

    def __str__(self) -> str:
        resident = ", ".join(
            f"{host} {self.resident_before[host] / MEGABYTE:.0f} → {after / MEGABYTE:.0f}"
            for host, after in self.resident_after.items()
        )
        cells = (self.fault, f"{self.acknowledged}", f"{self.recovered_s:.1f}", resident, self.remark)
        return f"| {' | '.join(cells)} |"


HEADER = "| fault | acknowledged, each there once | healthy after (s) | resident (MB) | |\n|---|---|---|---|---|"
ROWS: list[Row] = []  # of this run
