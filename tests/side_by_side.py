"""How the tests of one run are shared out among processes, where pytest is given `-n`.

A process takes whole files, so that what a file's tests share is made once. The first processes begin with the tests
that start containers, the others with the rest: containers keep the processors busy, most of the rest waits. Files that
take long come first, except in the last process: its short ones keep the processors busy while the long ones wait. The
tests that must have the machine to themselves come last, with what has no deadline beside them.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Each of these processes may have three stacks at a time, and a stack has five networks. An engine that scripts/setup
# started has addresses for hundreds of networks, any other for 31. No other process starts containers.
CONTAINER_PROCESSES = 3
NETWORKS = 100
CONTAINERS = ("tests/two_hosts/", "tests/faults/", "tests/containers/", "tests/browser/")
# They need the stack with SECURE_ZMQ=0 beside the other one, or share a browser with one that does: as one unit, both
# are started once.
OPEN_STACK = (
    *("test_open_link.py", "test_refusals.py", "test_wire_capture.py", "test_dashboard.py"),
    *("test_attention.py", "test_accessible.py", "test_charts.py"),
)
OPEN_STACK_UNIT = "tests/containers/open stack"
# One after the other: an idle deployment with standbys takes a third of a processor.
STANDBYS = ("test_failover.py", "test_database.py")
STANDBYS_UNIT = "tests/containers/standbys"
# Longest first; one that was renamed is only started later.
LONG = (
    *("test_two_hosts.py", "standbys", "open stack", "test_notify.py", "test_two_machines.py", "test_doctor.py"),
    *("test_keys_rotation.py", "test_keys_out.py", "test_keys_in.py", "test_upgrade.py", "test_readme.py"),
    *("test_enrolment.py", "test_memory_killed.py", "test_rotation_killed.py", "test_partition.py"),
    *("test_bring_an_agent.py", "test_attention_of_resources.py", "test_intruder.py"),
    *("test_cli_watch.py", "test_events.py", "test_audit_witness.py", "test_rotation.py", "test_host_archive.py"),
    *("test_crash_safety.py", "test_revoke_and_replace.py", "test_request_and_accept.py", "test_killed.py"),
    *("test_http_limits.py", "test_cli_lease.py", "test_installed.py", "test_vectors.py", "test_outbox_link.py"),
    *("test_rotation_of_pins.py", "test_agents.py", "test_wake_ups.py", "test_search_by_meaning.py"),
    *("test_revoke_acknowledged.py", "test_coordination.py", "test_cli_after_certs_init.py", "test_healthcheck.py"),
    *("test_mainpc_link.py", "test_first_agent.py", "test_speed_smoke.py", "test_leases_model.py"),
    *("test_bench_agents.py", "test_mcp_writers.py", "test_interactions.py", "test_public_api.py"),
    "test_monitoring.py",
)
# Beginnings of tests that are a unit each: they share nothing with their file, which would be the run's last.
BY_TEST = (
    "test_enrolment.py::test_killed_at_any_moment_the_next_run_joins",
    *("test_rotation_killed.py", "test_partition.py", "test_cli_watch.py", "test_audit_witness.py", "test_rotation.py"),
    *("test_crash_safety.py", "test_revoke_and_replace.py", "test_request_and_accept.py", "test_killed.py"),
)
# They measure this machine, and load it so that others would miss their deadlines.
ALONE = ("tests/adversary/",)
# They only compute, and may take any time: beside those that run alone, they take what these leave of the processors.
PATIENT = ("test_leases_model.py", "test_schema.py", "test_frame.py")
NICENESS = 19  # the least priority, nice(2)


def runs_alone(nodeid: str) -> bool:
    """Return whether nothing else may run beside a test, but those that are patient."""
    return nodeid.startswith(ALONE)


def is_patient(nodeid: str) -> bool:
    """Return whether a test may run beside any other."""
    return nodeid.partition("::")[0].rpartition("/")[2] in PATIENT


def starts_containers(nodeid: str) -> bool:
    """Return whether a test belongs to the processes that start containers."""
    return nodeid.startswith(CONTAINERS)


def unit_of(nodeid: str) -> str:
    """Return what a test is given to a process with: its file, more than that, or the test alone."""
    file, _, test = nodeid.partition("::")
    name = file.rpartition("/")[2]
    if starts_containers(nodeid) and name in OPEN_STACK:
        return OPEN_STACK_UNIT
    if starts_containers(nodeid) and name in STANDBYS:
        return STANDBYS_UNIT
    return nodeid if f"{name}::{test}".startswith(BY_TEST) else file


def order(unit: str, *, short_first: bool = False) -> tuple[int, bool, int]:
    """Return what units are sorted by: those that run alone and the patient last, long ones first or behind others."""
    name = unit.partition("::")[0].rpartition("/")[2]
    is_long = name in LONG
    at_the_end = 2 * is_patient(unit) + runs_alone(unit)
    return at_the_end, is_long == short_first, LONG.index(name) if is_long else len(LONG)


def container_processes() -> int:
    """Return how many processes may start containers: one where the engine has its own few address pools."""
    if shutil.which("docker") is None:
        return 1
    command = ["docker", "info", "--format", "{{range .DefaultAddressPools}}{{.Base}} {{.Size}}\n{{end}}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    pools = zip(listed[::2], listed[1::2], strict=False)
    networks = sum(1 << (int(size) - int(base.rpartition("/")[2])) for base, size in pools)
    return CONTAINER_PROCESSES if networks >= NETWORKS else 1


class Sharing(LoadScopeScheduling):
    """pytest-xdist's distribution by units, with the units and the order of this module."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._container_processes = container_processes()

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        # Completed ones of a process that crashed come back; whoever took one would be asked for nothing more.
        for unit in [unit for unit, tests in self.workqueue.items() if all(tests.values())]:
            del self.workqueue[unit]
        if self.workqueue and self._next_for(node) is None:
            node.shutdown()  # once it has run what it was given
        else:
            super()._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next_for(node) or next(iter(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _next_for(self, node: WorkerController) -> str | None:
        """Return the unit that a process takes next, or None if the rest is for others."""
        number = sorted(self.nodes, key=lambda node: node.gateway.id).index(node)
        starts = number < self._container_processes
        last = number == len(self.nodes) - 1  # the one without stacks to remove, where there are more than start any

        def later(unit: str) -> tuple[int, bool, tuple[int, bool, int]]:
            mine = not starts or starts_containers(unit)
            at_the_end, *_ = rank = order(unit, short_first=last and not starts)
            return at_the_end, not mine, rank

        left = (unit for unit in self.workqueue if last or not runs_alone(unit))
        return min((unit for unit in left if starts or not starts_containers(unit)), key=later, default=None)


@contextmanager
def turn(nodeid: str, lock: Path) -> Iterator[None]:
    """Wait until a test may run: beside others, or once no other does; a patient one may at once."""
    if is_patient(nodeid):
        os.nice(NICENESS)  # for good: only others of its kind follow in this process
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if runs_alone(nodeid) else fcntl.LOCK_SH)
        yield


def remove_stacks(run: str) -> None:
    """Remove what containers, networks, and volumes are left of a run."""
    if shutil.which("docker") is None:
        return
    from tests.containers.stack import projects_of

    for listing, removal in (
        (["ps", "--all"], ["rm", "--force"]),
        (["network", "ls"], ["network", "rm"]),
        (["volume", "ls"], ["volume", "rm"]),
    ):
        command = ["docker", *listing, "--quiet", "--filter", f"name={projects_of(run)}"]
        left = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if left:
            subprocess.run(["docker", *removal, *left], capture_output=True, check=False)
