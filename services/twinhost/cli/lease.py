"""`lease`: run a program with leased memory, which is renewed while the program lives and released when it ends."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from twinhost import connect
from twinhost.cli import output
from twinhost.cli.arguments import MAX_SECONDS, number
from twinhost.cli.machines import ask_hosts, on_this_machine
from twinhost.cli.output import Failure
from twinhost.deployment import REGISTRY_AGENT
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound, NotGranted, TwinhostError
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled
from twinhost.secure_zmq.wire import Reply
from twinhost.worker import Worker

DEFAULT_TTL_S = 60.0
RENEWALS_PER_TTL = 3  # so that two may fail
NOT_EXECUTABLE, NOT_FOUND, KILLED = 126, 127, 128  # as shells report them
PASSED_ON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2})
_WATCHED = PASSED_ON | {signal.SIGCHLD}


def lease(
    command: Annotated[
        list[str], typer.Argument(metavar="-- PROGRAM", help="After two hyphens, the program and its arguments.")
    ],
    vram: Annotated[float | None, number("--vram", "MB", "VRAM, on one card.", 0.001, 1e12)] = None,
    ram: Annotated[float | None, number("--ram", "MB", "RAM.", 0.001, 1e12)] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="HOST", help="Where the program runs; by default the key's host, or this machine."
        ),
    ] = None,
    wait: Annotated[float, number("--wait", "SECONDS", "How long to wait for memory.", 0, MAX_SECONDS)] = 0.0,
    priority: Annotated[
        int, typer.Option("--priority", metavar="N", min=-100, max=100, help="Among those who wait, higher goes first.")
    ] = 0,
    ttl: Annotated[
        float, number("--ttl", "SECONDS", "When the lease ends after a kill -9.", 5, MAX_SECONDS)
    ] = DEFAULT_TTL_S,
) -> int:
    """Run a program with leased memory.

    For example: twinhost lease --vram 8000 -- python train.py

    The program gets CUDA_VISIBLE_DEVICES and TWINHOST_LEASE_ID, and the signals INT, TERM, HUP, QUIT, USR1, and USR2.
    The exit status is the program's, 128 + N after signal N. Install twinhost where the program runs: in the container
    of `./twinhost` or `docker compose run cli` there is no such program, and no GPU.
    """
    amounts = {"vram": vram, "ram": ram}
    wanted = {resource: amount for resource, amount in amounts.items() if amount is not None}
    if not wanted:
        raise typer.BadParameter("name an amount: --vram MB, --ram MB, or both", param_hint="--vram")
    with connect(REGISTRY_AGENT) as client:
        fields = {"host": host or _own_host(client), "ttl_s": ttl, "wait_s": wait, "priority": priority}
        with _leased(client, wanted, fields) as leases:
            for reserved in leases:
                client.call("commit_lease", lease_id=reserved["lease_id"], ttl_s=ttl)
                card = f", GPU {reserved['gpu']['index']}" if reserved.get("gpu") else ""
                sentence = f"{reserved['amount_mb']:g} MB of {reserved['resource'].upper()} on {reserved['host']}{card}"
                output.say("leased:", output.FAINT, sentence)
            renewal = Renewal([str(reserved["lease_id"]) for reserved in leases], ttl)
            return _run(command, {**os.environ, **environment_of(leases)}, renewal)


def environment_of(leases: list[Reply]) -> dict[str, str]:
    """Return a program's variables; NVML and CUDA number the cards alike only in the order of their PCI bus ids."""
    variables = {"TWINHOST_LEASE_ID": ",".join(str(reserved["lease_id"]) for reserved in leases)}
    for gpu in (reserved["gpu"] for reserved in leases if reserved.get("gpu")):
        if gpu["uuid"] is None:
            variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        variables["CUDA_VISIBLE_DEVICES"] = str(gpu["index"]) if gpu["uuid"] is None else gpu["uuid"]
    return variables


def _own_host(client: Client) -> str:
    """Return the host in the key; if it is not measured, such as the machine's own name, the host on this machine."""
    own = load_certificates().own_keys.certificate.owner.host if is_secure_zmq_enabled() else None
    hosts = ask_hosts(client)
    if own is not None and (hosts is None or own in hosts):
        return own
    if here := on_this_machine(hosts or {}):
        return here[0]
    known = f" ({', '.join(hosts)})" if hosts else ""
    raise typer.BadParameter(
        f"{REGISTRY_AGENT} measures no host {own or 'of this machine'}; name the host that the program runs on{known}",
        param_hint="--host",
    )


@contextmanager
def _leased(client: Client, wanted: Mapping[str, float], fields: Mapping[str, Any]) -> Iterator[list[Reply]]:
    """Reserve each amount on the same host; release everything at the end."""
    leases: list[Reply] = []
    try:
        for resource, amount_mb in wanted.items():
            reply = client.call(f"reserve_{resource}", amount_mb=amount_mb, **fields)
            leases.append(reply)
        yield leases
    finally:
        for reserved in leases:
            try:
                client.call("release_lease", lease_id=reserved["lease_id"])
            except NotFound:
                pass  # it had ended before, which has been reported
            except TwinhostError as error:
                output.say(
                    "warning:",
                    output.WARN,
                    f"the lease is not released and ends by its TTL: {Failure.of(error).sentence}",
                )


class Renewal(Worker):
    """Renews leases on a separate thread, with its own client; a failure is reported once and retried."""

    def __init__(self, lease_ids: list[str], ttl_s: float) -> None:
        super().__init__("lease-renewal", self._renew)
        self._held = list(lease_ids)
        self._ttl_s = ttl_s

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.request_stop()  # not joined: a call in progress may take seconds, and does no harm

    def _renew(self) -> None:
        reported = False
        with connect(REGISTRY_AGENT) as client:
            while not self.wait(min(self._ttl_s / RENEWALS_PER_TTL, 1.0 if reported else self._ttl_s)):
                failure = None
                for lease_id in tuple(self._held):
                    try:
                        client.call("commit_lease", lease_id=lease_id, ttl_s=self._ttl_s)
                    except (NotFound, NotGranted) as error:
                        self._held.remove(lease_id)
                        if not self.stopping:
                            self._warn(f"lease {lease_id} has ended, and its memory may be leased to others", error)
                    except TwinhostError as error:
                        failure = error
                if failure is not None and not reported:
                    self._warn("the lease can't be renewed now; retrying", failure)
                reported = failure is not None

    @staticmethod
    def _warn(what: str, error: TwinhostError) -> None:
        output.say("warning:", output.WARN, f"{what}: {Failure.of(error).sentence}")


def _run(command: list[str], environment: Mapping[str, str], renewal: Renewal) -> int:
    """Run a program in this process group until it ends, and return its exit status as shells report it.

    The watched signals wait for this thread: it blocks them, and so does every `Worker`, and every thread of libzmq.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the exit status is lost
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        try:
            pid = os.posix_spawnp(command[0], command, environment, setsigmask=before)
        except FileNotFoundError:
            output.say("error:", output.BAD, f"there is no program {command[0]!r}; check its name and PATH")
            return NOT_FOUND
        except OSError as error:
            output.say("error:", output.BAD, f"{command[0]!r} can't be run ({error.strerror}); check its mode: ls -l")
            return NOT_EXECUTABLE
        with renewal:
            return _wait_for(pid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for(pid: int) -> int:
    while True:
        received = signal.sigwaitinfo(_WATCHED)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else KILLED - code
        elif received.si_code <= 0:  # from a process; the kernel sends those of a terminal to the program too
            with suppress(ProcessLookupError):
                os.kill(pid, received.si_signo)
