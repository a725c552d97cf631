"""pc2 keeps mainpc's list, and says itself that mainpc is silent; after a restart too."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.configuration import SHIPPED
from tests.staged_troubles import stage_log
from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import OPERATOR, Clock
from tests.unit.system_digital_twin.twin import SDT as SDT_CALLER
from twinhost.agent.membership.watch import MAX_BYTES, MAX_ITEMS, GetAttention, MainpcWatch, WatchActions
from twinhost.agent.troubles import Kind, Trouble, item_of
from twinhost.moments import iso_time, parse_time
from twinhost.secure_zmq.errors import (
    NotAuthorized,
    PeerNotLive,
    RequestError,
    SecurityMismatch,
    ServerUnreachable,
    StoreUnavailable,
    TwinhostError,
)
from twinhost.secure_zmq.silence import TIMED_OUT_S, Silence
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, assemble

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
TTL_S = 15.0
NO_ANSWER = ServerUnreachable("no reply to heartbeat: the connection was lost")
FULL = Trouble(kind=Kind.DISK_NEARLY_FULL, subject="mainpc", host="mainpc", what="mainpc's disk is nearly full")
OWN = Trouble(kind=Kind.WARNING, subject="pc2/outbox", host="pc2", what="pc2: 4 requests dropped")


class Bench:
    """The watch of pc2, in each of its lives."""

    def __init__(self, folder: Path, *, secure: bool = True) -> None:
        self.path, self.secure, self.clock = folder / "attention.json", secure, Clock()
        self.own: list[Trouble] = []
        self.restart()

    def restart(self) -> None:
        agents = SHIPPED.agents
        self.watch = MainpcWatch(
            self.path, agents[UMRA], agents[SDT], lambda: self.own, lambda: TTL_S, self.clock, secure=self.secure
        )

    def gets(self, *troubles: Trouble, revision: str = "r1") -> None:
        items = [item_of(trouble, self.clock.time()) for trouble in troubles]
        reply = {"level": "attention", "headline": "Something.", "as_of": iso_time(self.clock.time()), "items": items}
        self.watch.answered()
        self.watch.take(revision, {"status": "success", **reply})

    def is_silent(self, seconds: float, silence: Silence | None = None) -> None:
        error = ServerUnreachable(str(NO_ANSWER))
        error.silence = silence
        for _ in range(round(seconds)):
            self.clock.let_pass(1)
            self.watch.failed(error)

    @property
    def items(self) -> dict[str, Any]:
        return {item["id"]: item for item in self.watch.list()["items"]}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_while_mainpc_answers_the_list_is_mainpcs(bench: Bench) -> None:
    """As of its last answer, which says that nothing has changed."""
    bench.own = [OWN]
    bench.gets(FULL)
    bench.clock.let_pass(5)
    before = iso_time(bench.clock.time())
    bench.watch.answered()
    document = bench.watch.list()
    assert ([*bench.items], document["headline"]) == ([FULL.id], "Something.")
    assert before <= document["as_of"] <= iso_time(bench.clock.time())


def test_it_is_fetched_again_only_when_it_has_changed(bench: Bench) -> None:
    assert bench.watch.lacks("r1")
    bench.gets(FULL)
    assert [bench.watch.lacks(revision) for revision in ("r1", "r2", None)] == [False, True, False]
    bench.restart()
    assert not bench.watch.lacks("r1"), "the file has it"


def test_a_silent_mainpc_is_named_after_the_ttl(bench: Bench) -> None:
    """With since when, what is wrong here, and what mainpc said last."""
    bench.own = [OWN]
    bench.gets(FULL)
    heard = iso_time(bench.clock.time())[:19]
    bench.is_silent(TTL_S - 2)
    assert [*bench.items] == [FULL.id]
    bench.is_silent(3)
    document = bench.watch.list()
    assert [*bench.items] == ["mainpc_silent", OWN.id, FULL.id]
    silent = bench.items["mainpc_silent"]
    assert (silent["since"][:19], silent["level"], silent["cause"]) == (heard, "broken", str(NO_ANSWER))
    assert (document["level"], document["headline"]) == ("broken", "mainpc does not answer pc2; and 2 more troubles.")
    assert [("last_known" in item) for item in document["items"]] == [False, False, True]
    assert document["items"][2]["last_known"][:19] == heard
    bench.watch.answered()
    assert [*bench.items] == [FULL.id]


@pytest.mark.parametrize(
    ("silence", "cause", "advised"),
    [
        (Silence.ENDED, "its connections were closed", "docker compose up -d mainpc"),
        (Silence.CUT, "nothing answers on its connections", "docker compose ps -a mainpc"),
        (Silence.FROZEN, "its machine still acknowledges", "docker compose unpause mainpc"),
        (Silence.QUIET, "its connections were still open when it fell silent", "docker compose ps -a mainpc"),
        (None, "no reply to heartbeat", "docker compose up -d mainpc"),
    ],
)
def test_the_cause_of_silence_is_what_connections_show(
    bench: Bench, silence: Silence | None, cause: str, advised: str
) -> None:
    """With the command for that; the last error is evidence."""
    bench.gets()
    bench.is_silent(TTL_S + 1, silence)
    item = bench.items["mainpc_silent"]
    assert item["cause"].startswith(cause)
    assert item["remedies"][0]["command"] == advised
    assert item["evidence"] == [{"name": "last request", "value": str(NO_ANSWER)}]
    here = {remedy["command"] for remedy in item["remedies"] if remedy["on"] == "pc2"}
    assert here <= {"TWINHOST_CLI_KEYS=pc2 ./twinhost doctor"}, "no operator's key is there"


@pytest.mark.parametrize("answer", [None, StoreUnavailable("mainpc's disk is full")])
def test_a_connection_closed_after_a_silence_was_not_ended(bench: Bench, answer: RequestError | None) -> None:
    """This side may have closed it, because of the silence: where heartbeats are rare."""
    bench.gets()
    bench.watch.answered(answer)
    bench.clock.let_pass(TIMED_OUT_S)
    bench.is_silent(TTL_S, Silence.ENDED)
    assert bench.items["mainpc_silent"]["cause"].startswith("its connections were still open when it fell silent")


def test_silence_outlasts_a_restart_of_pc2(bench: Bench) -> None:
    bench.gets(FULL)
    bench.is_silent(TTL_S + 5)
    before = bench.items
    bench.clock.let_pass(3_600)
    bench.restart()
    assert bench.items["mainpc_silent"]["since"] == before["mainpc_silent"]["since"]
    assert FULL.id in bench.items
    bench.watch.answered()
    bench.restart()
    assert [*bench.items] == [FULL.id], "after a restart mainpc has its time to answer"


def test_a_clock_that_is_set_back_delays_no_silence(bench: Bench) -> None:
    """The start that the file has may be in the future then."""
    bench.gets(FULL)
    bench.is_silent(TTL_S + 5)
    bench.clock.set_wall_clock(-7_200)
    bench.restart()
    bench.is_silent(TTL_S + 1)
    assert bench.items["mainpc_silent"]["since"] <= iso_time(bench.clock.time())


def test_a_mainpc_that_refuses_is_not_silent(bench: Bench) -> None:
    """It says itself what is wrong, under this id; what follows a refusal does not replace it."""
    bench.gets(FULL)
    for error in (NotAuthorized("refused this key"), PeerNotLive("no longer authorised")):
        bench.watch.failed(error) if isinstance(error, NotAuthorized) else bench.watch.answered(error)
        bench.is_silent(3)
        assert [*bench.items] == [f"key_revoked:{UMRA}", FULL.id]
    for _ in range(round(2 * TTL_S)):
        bench.clock.let_pass(1)
        bench.watch.failed(NotAuthorized("refused this key"))
    assert [*bench.items] == [f"key_revoked:{UMRA}", FULL.id], "for as long as it refuses"
    bench.watch.answered(StoreUnavailable("mainpc's disk is full"))
    assert [*bench.items] == [FULL.id], "it answers"
    bench.watch.failed(NotAuthorized("refused this key"))
    bench.is_silent(TTL_S + 1)
    assert next(iter(bench.items)) == "mainpc_silent", "now it is gone altogether"
    assert bench.items["mainpc_silent"]["cause"] == str(NO_ANSWER), "not the refusal of before"


@pytest.mark.parametrize(
    ("name", "failures"),
    [
        (f"key_revoked:{UMRA}", (NotAuthorized("refused this key"), PeerNotLive("no longer authorised"))),
        ("link_open:mainpc", (SecurityMismatch("the other kind"),)),
    ],
)
def test_a_refusal_began_when_it_came_first(bench: Bench, name: str, failures: tuple[TwinhostError, ...]) -> None:
    """Not when somebody asks; and after an answer it begins anew."""
    for _ in range(2):
        bench.watch.answered()
        bench.clock.let_pass(60)
        began = bench.clock.time()
        for failure in failures:
            bench.watch.failed(failure) if not isinstance(failure, PeerNotLive) else bench.watch.answered(failure)
            bench.clock.let_pass(5)
        assert parse_time(bench.items[name]["since"]).timestamp() == pytest.approx(began, abs=0.01)


@pytest.mark.parametrize("cause", ["key_revoked", "key_expired"])
def test_that_its_agent_refuses_itself_is_explained(bench: Bench, cause: str) -> None:
    """It asks itself whether it is well, with the key that is not valid any more."""
    refused = f"{Kind.REFUSALS}:pc2/{cause}/{UMRA}"
    bench.own = [Trouble(kind=Kind.REFUSALS, subject=f"pc2/{cause}/{UMRA}", host="pc2", what="pc2: refused itself")]
    bench.watch.failed(NotAuthorized("refused this key"))
    (item,) = bench.items.values()
    assert (item["id"], [other["id"] for other in item["explains"]]) == (f"key_revoked:{UMRA}", [refused])


def test_what_is_explained_is_not_said_again(bench: Bench) -> None:
    """mainpc had it as a trouble of its own, before somebody knew its cause."""
    refused = Trouble(kind=Kind.REFUSALS, subject=f"pc2/key_revoked/{UMRA}", host="pc2", what="pc2: refused itself")
    bench.own = [refused]
    bench.gets(refused, FULL)
    bench.watch.failed(NotAuthorized("refused this key"))
    assert [*bench.items] == [f"key_revoked:{UMRA}", FULL.id]


def test_what_mainpc_knew_began_when_it_said(bench: Bench) -> None:
    bench.clock.stand_still()
    began = iso_time(bench.clock.time())
    bench.gets(OWN)
    bench.clock.let_pass(3_600)
    bench.own = [OWN]
    bench.is_silent(TTL_S + 1)
    assert bench.items[OWN.id]["since"] == began
    assert [item["id"] for item in bench.watch.list()["items"]] == ["mainpc_silent", OWN.id], "each once"


@pytest.mark.parametrize(("secure", "where"), [(True, "mainpc"), (False, "pc2")])
def test_the_host_with_the_open_link_is_named(tmp_path: Path, secure: bool, where: str) -> None:
    bench = Bench(tmp_path, secure=secure)
    bench.watch.failed(SecurityMismatch("the other kind"))
    assert [*bench.items] == [f"link_open:{where}"]
    assert bench.items[f"link_open:{where}"]["remedies"][0]["on"] == where


def test_since_when_is_kept_for_each_of_its_own(bench: Bench) -> None:
    bench.own = [OWN]
    first = bench.items[OWN.id]["since"]
    bench.clock.let_pass(5)
    assert bench.items[OWN.id]["since"] == first
    bench.own = []
    assert bench.items == {}
    bench.own = [OWN]
    assert bench.items[OWN.id]["since"] != first


def test_what_is_kept_is_limited(bench: Bench) -> None:
    """Whatever a list holds, the worst comes first."""
    bench.gets(*(Trouble(kind=Kind.ERRORS, subject=f"{number}", what="x") for number in range(1_000)))
    assert len(bench.items) == MAX_ITEMS
    bench.gets(*(Trouble(kind=Kind.ERRORS, subject=f"{number}", what="x" * 20_000) for number in range(40)))
    assert 0 < len(bench.items) < 10
    assert bench.path.stat().st_size < MAX_BYTES + 1_000


def test_the_list_is_an_action_too(bench: Bench) -> None:
    """Evidence, such as fingerprints, is for operators."""
    bench.own = [msgspec.structs.replace(OWN, evidence=(("outbox", "4"),))]
    bench.is_silent(TTL_S + 1)
    actions = WatchActions(bench.watch, "ok")
    replies = [actions.get(GetAttention(), caller) for caller in (OPERATOR, SDT_CALLER)]
    assert [reply["items"][1]["evidence"] for reply in replies] == [[{"name": "outbox", "value": "4"}], []]
    assert replies[1]["items"][0]["id"] == "mainpc_silent"
    assert replies[0]["status"] == "ok"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"revision": 1}', b"\xff"])
def test_an_unreadable_file_ends_nothing(bench: Bench, content: bytes) -> None:
    bench.path.write_bytes(content)
    bench.restart()
    assert (bench.watch.list()["level"], bench.watch.lacks("r1")) == ("well", True)


def test_a_malformed_list_of_mainpc_is_no_list(bench: Bench) -> None:
    bench.watch.take("r1", {"status": "success", "items": 1})
    assert bench.watch.list()["items"] == []


def test_a_disk_that_is_full_loses_nothing_in_memory(bench: Bench) -> None:
    bench.path.mkdir()
    bench.gets(FULL)
    bench.is_silent(TTL_S + 1)
    assert [*bench.items] == ["mainpc_silent", FULL.id]


def test_without_mainpc_pc2_says_what_is_wrong_with_the_log(tmp_path: Path) -> None:
    """As mainpc would, under the same ids; mainpc's standby has no database to say it from, or is not there."""
    clock = Clock()
    with Assembled(UMRA, MIGRATIONS, assemble, environment_of(tmp_path, "pc2"), clock) as agent:
        stage_log(agent.live, agent.log, copies=1, silent=("SystemDigitalTwin",))
        clock.let_pass(60.0)
        items = agent.ask("get_attention", OPERATOR)["items"]
    silent, one_copy = (item for item in items if item["kind"] != "check_failed")  # it has no other thread here
    assert (silent["id"], one_copy["id"]) == ("mainpc_silent", "one_copy")
    assert [other["id"] for other in one_copy["explains"]] == ["standby_silent:SystemDigitalTwin"]


def test_without_mainpc_pc2_says_what_is_wrong_with_itself(tmp_path: Path) -> None:
    """Also what mainpc has a detector for; but not that its own link is down, which is what mainpc's silence is."""
    clock = Clock()
    with Assembled(UMRA, MIGRATIONS, assemble, environment_of(tmp_path, "pc2"), clock) as agent:
        agent.health.warn("other", lambda: ["something else"])
        agent.health.warn("key_expiry", lambda: ["its key expires"])
        agent.health.add("mainpc_link", lambda: "it does not answer", essential=False)
        clock.let_pass(60.0)
        found = {item["id"] for item in agent.ask("get_attention", OPERATOR)["items"]}
    assert {"mainpc_silent", "warning:pc2/other", "warning:pc2/key_expiry"} <= found
    assert "check_failed:pc2/mainpc_link" not in found
