"""What is wrong with the log: which standby is missing, on which machine, and what is a consequence of what."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.unit.agent.assembled import SeenLog
from twinhost.agent.log_troubles import log_troubles
from twinhost.agent.troubles import Level, by_cause
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.network_config.load import DATABASE_VARIABLE, DEFAULT_PATH
from twinhost.store.replication.looks import MOST_BEHIND, AgentLog, Difference, Follower, LogState

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
CONFIG = load_network_config(DEFAULT_PATH, {DATABASE_VARIABLE: "postgresql:///twinhost?host=/run"})


def state(holder: str = "mainpc", standbys: Sequence[Follower] = (), copies: int | None = 2) -> LogState:
    """Return what is seen of one agent's log."""
    log = AgentLog(SDT, 3, holder, 100, 0.0, standbys)
    return LogState({SDT: log}, copies, "witness", ("database-pc2",))


def found(
    seen: LogState | None, fault: str | None = None, config: NetworkConfig = CONFIG
) -> list[tuple[str, str, str]]:
    """Return id, host, and the first command of each trouble."""
    troubles = log_troubles(SeenLog(seen, witness_fault=fault), config)
    return [(one.id, one.remedies[0].on, one.remedies[0].command) for one in troubles]


HERE = Follower("mainpc-standby", 0, 1.0)
GONE = replace(HERE, silent_s=60.0)


def test_a_log_that_is_followed_is_well() -> None:
    assert found(state(standbys=[HERE])) == []
    assert found(None) == []
    assert list(log_troubles(None, CONFIG)) == []


@pytest.mark.parametrize(
    ("holder", "standbys", "host", "service"),
    [
        ("mainpc", [], "pc2", "mainpc-standby"),
        ("mainpc", [GONE], "pc2", "mainpc-standby"),
        ("mainpc-standby", [], "mainpc", "mainpc"),
        ("mainpc-standby", [Follower("mainpc", 5, 60.0)], "mainpc", "mainpc"),
    ],
)
def test_a_missing_standby_is_named_with_its_machine(
    holder: str, standbys: list[Follower], host: str, service: str
) -> None:
    assert found(state(holder, standbys)) == [(f"standby_silent:{SDT}", host, f"docker compose up -d {service}")]


def test_a_standby_that_was_never_seen_is_named_with_the_log() -> None:
    (trouble,) = log_troubles(SeenLog(state("mainpc-standby"), holder="mainpc-standby"), CONFIG)
    assert trouble.cause == f"mainpc has not begun to follow the log of {SDT}"


def test_a_standby_that_said_why_it_ended_is_quoted() -> None:
    ended = replace(HERE, fault="run the same image on both machines")
    (trouble,) = log_troubles(SeenLog(state(standbys=[ended])), CONFIG)
    assert trouble.cause == "mainpc-standby ended: run the same image on both machines"
    (trouble,) = log_troubles(SeenLog(state(standbys=[GONE])), CONFIG)
    assert trouble.cause == "mainpc-standby has said nothing for 60 s"


def test_a_standby_is_missed_only_after_a_while() -> None:
    assert found(replace(state(), settled=False)) == []


def test_nobody_misses_a_standby_that_is_not_configured() -> None:
    alone = replace(CONFIG, agents={name: replace(agent, standby=None) for name, agent in CONFIG.agents.items()})
    assert found(state(), config=alone) == []


def test_a_standby_that_lags_is_named() -> None:
    late = replace(HERE, behind=MOST_BEHIND + 1)
    assert found(state(standbys=[late])) == [(f"standby_behind:{SDT}", "pc2", "docker compose logs mainpc-standby")]
    assert found(state(standbys=[replace(HERE, behind=MOST_BEHIND)])) == []


SECRET = {Difference.SECRET: "it is another one"}
BOTH = {**SECRET, Difference.CONFIGURATION: "limits differ"}
THREE = load_network_config(
    DEFAULT_PATH,
    {DATABASE_VARIABLE: "postgresql:///twinhost?host=/run", "MAINPC_IP": "192.0.2.10", "PC2_IP": "192.0.2.20"},
)


@pytest.mark.parametrize(
    ("config", "differences", "commands"),
    [
        (
            CONFIG,
            SECRET,
            [
                ("mainpc", "docker compose run --rm certs-init"),
                ("pc2", "docker compose restart mainpc-standby"),
            ],
        ),
        (
            THREE,
            BOTH,
            [
                (
                    "mainpc",
                    f"docker compose run --rm -T certs-init export-standby {SDT} | "
                    "ssh pc2 'cd twinhost && docker compose run --rm -T certs-init import-standby -'",
                ),
                ("pc2", "docker compose restart mainpc-standby"),
                ("mainpc", "scp config/network_config.yaml pc2:twinhost/config/"),
            ],
        ),
    ],
    ids=["one machine", "three machines"],
)
def test_a_standby_that_differs_is_named_with_what_to_copy(
    config: NetworkConfig, differences: dict[Difference, str], commands: list[tuple[str, str]]
) -> None:
    """It follows, so it is not missed; where it has another secret, it is said that it can't take over."""
    seen = state(standbys=[replace(HERE, differences=differences)])
    (trouble,) = log_troubles(SeenLog(seen), config)
    assert (trouble.id, trouble.host, trouble.level) == (f"standby_differs:{SDT}", "pc2", Level.ATTENTION)
    assert trouble.what == f"mainpc-standby can't take over from mainpc: its secret of {SDT} is another one"
    assert trouble.cause == "; ".join(differences.values())
    assert [(remedy.on, remedy.command) for remedy in trouble.remedies] == commands


def test_what_comes_home_gets_the_secret_of_where_it_is_active() -> None:
    home = replace(HERE, name="mainpc", differences=SECRET)
    (trouble,) = log_troubles(SeenLog(state(standbys=[home], holder="mainpc-standby")), THREE)
    assert trouble.host == "mainpc"
    copy, restart = trouble.remedies
    assert (copy.on, "export-standby" in copy.command, "ssh mainpc " in copy.command) == ("pc2", True, True)
    assert (restart.on, restart.command) == ("mainpc", "docker compose restart mainpc")


def test_a_configuration_that_differs_is_that_alone() -> None:
    limits = replace(HERE, differences={Difference.CONFIGURATION: "limits differ"})
    (trouble,) = log_troubles(SeenLog(state(standbys=[limits])), CONFIG)
    assert trouble.what == f"mainpc-standby would not be {SDT} as mainpc is: its configuration is another one"
    assert [remedy.command for remedy in trouble.remedies] == ["scp config/network_config.yaml pc2:twinhost/config/"]


def test_a_standby_without_space_is_named() -> None:
    full = replace(HERE, differences={Difference.SPACE: "0 bytes are free"})
    (trouble,) = log_troubles(SeenLog(state(standbys=[full])), CONFIG)
    assert trouble.what == "mainpc-standby would refuse changes if it took over from mainpc: its volume is full"
    assert [(remedy.on, remedy.command) for remedy in trouble.remedies] == [
        ("pc2", "docker compose exec mainpc-standby df -h /var/lib/twinhost")
    ]


def test_one_copy_is_a_trouble_and_an_unknown_number_none() -> None:
    assert found(state(standbys=[HERE], copies=1)) == [("one_copy", "pc2", "docker compose up -d database-pc2")]
    assert found(state(standbys=[HERE], copies=None)) == []
    unnamed = replace(state(standbys=[HERE], copies=1), other_servers=())
    assert found(unnamed) == [("one_copy", "witness", "docker compose exec witness pg_autoctl show state")]


def test_a_machine_that_is_off_is_one_trouble() -> None:
    """Its database and the standby there; not a standby on the machine that runs."""
    (root, explained), *others = by_cause(log_troubles(SeenLog(state(standbys=[GONE], copies=1)), CONFIG))
    assert (root.id, [one.id for one in explained], others) == ("one_copy", [f"standby_silent:{SDT}"], [])
    moved = replace(state("mainpc-standby", copies=1), other_servers=("database-mainpc",))
    (root, explained), *others = by_cause(log_troubles(SeenLog(moved), CONFIG))
    assert (root.id, root.host, len(explained), others) == ("one_copy", "mainpc", 1, [])
    elsewhere = by_cause(log_troubles(SeenLog(state("mainpc-standby", copies=1)), CONFIG))
    assert sorted(root.id for root, _ in elsewhere) == ["one_copy", f"standby_silent:{SDT}"]


def test_a_witness_that_does_not_answer_says_why() -> None:
    assert found(state(standbys=[HERE]), "timed out") == [("witness_silent", "witness", "docker compose up -d witness")]
    assert found(replace(state(standbys=[HERE]), witness=None), None) == []


def test_none_of_them_breaks_anything_yet() -> None:
    troubles = log_troubles(SeenLog(state(copies=1), witness_fault="timed out"), CONFIG)
    assert {trouble.level for trouble in troubles} == {Level.ATTENTION}
