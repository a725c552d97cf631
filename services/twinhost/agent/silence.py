"""What the connections of a silent agent show, and what to do then; of pc2 on mainpc, and of mainpc on pc2. Pure."""

from twinhost.agent.troubles import SERVICES, Remedy, read_log, start
from twinhost.secure_zmq.silence import Silence

_SHOWN = {
    Silence.ENDED: "{its} connections were closed, so {it} or {its} container ended",
    Silence.CUT: "nothing answers on {its} connections, so the link is cut, or {its} machine is off",
    Silence.FROZEN: "{its} machine still acknowledges on {its} connections, so {it} must be paused, or hang",
    Silence.QUIET: "{its} connections were still open when {it} fell silent, so the link is cut, a machine is off, or "
    "a program hangs",
}


def shown_by(silence: Silence, *, many: bool = False) -> str:
    """Return what the connections of a silent agent show, or all those of `many`."""
    return _SHOWN[silence].format(its="their" if many else "its", it="they" if many else "it")


def advice(silence: Silence | None, host: str, asking: str) -> tuple[Remedy, ...]:
    """Return what to do about the silent agent that a host has for itself, on it and on the host that misses it."""
    starts, log = start(host), read_log(host, "shows why it ended, or what it can't reach")
    keys = "" if asking == "mainpc" else f"TWINHOST_CLI_KEYS={asking} "  # its own key: no operator's is there
    way = Remedy(asking, f"{keys}./twinhost doctor", f"checks the way to {host}")
    if host not in SERVICES:
        return starts, log
    runs = Remedy(host, f"docker compose ps -a {host}", "shows whether it runs; if it does, the network is at fault")
    goes_on = Remedy(host, f"docker compose unpause {host}", "continues it, if it is paused")
    again = Remedy(host, f"docker compose restart {host}", "restarts it, if it hangs")
    match silence:
        case Silence.ENDED:
            return starts, log
        case Silence.CUT:
            return runs, way, starts
        case Silence.FROZEN:
            return goes_on, again, log
        case Silence.QUIET:
            return runs, way, goes_on, again
        case None:
            return starts, log, way
