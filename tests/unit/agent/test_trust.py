"""mainpc's trust document, and the folder that follows it."""

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.identities import authorize, new_pair
from tests.loopback.agent_processes import SmallVolume
from twinhost.agent import trust
from twinhost.agent.trust import TrustDocument, TrustFolder, TrustHistory, document_of, fetch_document, read_document
from twinhost.secure_zmq import key_writer
from twinhost.secure_zmq.certificates import FolderContents, read_folders
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest
from twinhost.secure_zmq.key_writer import render_certificate, revoked_file_name, write_certificate, write_revocation
from twinhost.secure_zmq.keys import Certificate, KeyPair, parse_certificate
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome

REFUSE: Callable[[frozenset[str]], None] = lambda _: None  # noqa: E731 - what a process does is for another test
OLD, NEW, OTHER, GONE = new_pair("agent"), new_pair("agent"), new_pair("other"), new_pair("gone")


def document(
    current: tuple[KeyPair, ...] = (), following: tuple[KeyPair, ...] = (), revoked: tuple[KeyPair, ...] = ()
) -> TrustDocument:
    def texts(pairs: tuple[KeyPair, ...]) -> tuple[str, ...]:
        return tuple(render_certificate(pair.certificate) for pair in pairs)

    return TrustDocument("r", texts(current), texts(following), tuple(pair.public.fingerprint for pair in revoked))


def state(folder: Path) -> dict[str, str]:
    """Return every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def known(folder: Path) -> dict[str, list[str]]:
    """Return what the folder says, as a host reads it."""
    contents = read_folders([folder])
    assert list(contents.rejected) == []
    return {
        "current": sorted(key.public.fingerprint for key in contents.current.values()),
        "next": sorted(key.public.fingerprint for key in contents.next.values()),
        "revoked": sorted(contents.revoked),
    }


def expected(
    current: tuple[KeyPair, ...] = (), following: tuple[KeyPair, ...] = (), revoked: tuple[KeyPair, ...] = ()
) -> dict[str, list[str]]:
    return {
        "current": sorted(pair.public.fingerprint for pair in current),
        "next": sorted(pair.public.fingerprint for pair in following),
        "revoked": sorted(pair.public.fingerprint for pair in revoked),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trust"


def test_the_document_says_what_lies_in_the_folders(tmp_path: Path, folder: Path) -> None:
    """And a folder that follows it says the same, over the wire and back."""
    authorize(tmp_path, OLD)
    authorize(tmp_path, OTHER)
    write_certificate(NEW.certificate, tmp_path / "agent.next.key")
    write_revocation(GONE.certificate, tmp_path / "revoked")
    listed = document_of(read_folders([tmp_path]))
    reply = {**msgspec.json.decode(msgspec.json.encode(listed)), "status": "success"}
    TrustFolder(folder, REFUSE).apply(read_document(reply))
    assert known(folder) == expected((OLD, OTHER), (NEW,), (GONE,))


def test_the_revision_changes_exactly_with_the_content(tmp_path: Path) -> None:
    """A host fetches the document when it is notified of another revision, so each change must be one."""
    revisions = [document_of(read_folders([tmp_path])).revision]

    def assert_another() -> None:
        revision = document_of(read_folders([tmp_path])).revision
        assert revision not in revisions
        revisions.append(revision)

    path = authorize(tmp_path, OLD)
    assert_another()
    write_certificate(NEW.certificate, tmp_path / "agent.next.key")
    assert_another()
    write_revocation(GONE.certificate, tmp_path / "revoked")
    assert_another()
    path.rename(tmp_path / "another-stem.key")
    (tmp_path / "garbage.key").write_text("garbage")
    (tmp_path / "invites").mkdir()
    authorize(tmp_path / "invites", new_pair("newcomer"))
    assert document_of(read_folders([tmp_path])).revision == revisions[-1]


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"revision": "r"},
        {"revision": 5, "current": [], "next": [], "revoked": []},
        {"revision": "r", "current": "text", "next": [], "revoked": []},
        {"revision": "r", "current": [5], "next": [], "revoked": []},
        {"revision": "r", "current": [], "next": [], "revoked": None},
    ],
)
def test_an_answer_of_another_shape_is_refused(reply: dict[str, Any]) -> None:
    """An older mainpc, or something else."""
    with pytest.raises(MalformedRequest, match=r"is not a trust document .*; run the same version"):
        read_document(reply)


def test_a_rotation_reaches_the_folder_step_by_step(folder: Path) -> None:
    """The next key beside the current one; then in its place; the old one revoked."""
    follower = TrustFolder(folder, REFUSE)
    for step in (((OLD, OTHER),), ((OLD, OTHER), (NEW,)), ((NEW, OTHER), (), (OLD,))):
        follower.apply(document(*step))
        assert known(folder) == expected(*step)


def test_who_is_no_longer_listed_goes(folder: Path) -> None:
    """A key that mainpc removed without revoking it is not kept here either, nor is anything under another name."""
    follower = TrustFolder(folder, REFUSE)
    follower.apply(document((OLD, OTHER), (NEW,)))
    (folder / "stray.key").write_text("garbage")
    follower.apply(document((OTHER,)))
    assert known(folder) == expected((OTHER,))
    assert set(state(folder)) == {"other.key"}


def test_a_revocation_once_received_is_never_undone(folder: Path) -> None:
    """Not by a document that no longer has it, nor by a restart; and it counts against the document's own keys."""
    TrustFolder(folder, REFUSE).apply(document((OLD,), (), (OLD, GONE)))
    assert known(folder) == expected((), (), (OLD, GONE))
    TrustFolder(folder, REFUSE).apply(document((OLD, GONE)))
    assert known(folder) == expected((), (), (OLD, GONE))


def test_a_key_that_can_not_be_written_delays_no_revocation(folder: Path) -> None:
    """It is reported, and revoked keys are refused all the same."""
    follower = TrustFolder(folder, REFUSE)
    (folder / f"{OLD.certificate.owner.name}.key").mkdir()
    with pytest.raises(OSError, match="directory"):
        follower.apply(document((OLD,), revoked=(GONE,)))
    assert read_folders([folder]).revoked == {GONE.public.fingerprint}


def test_a_full_volume_keeps_no_revoked_key_alive(folder: Path, tmp_path: Path) -> None:
    """Its file goes, the process refuses it and says why; what revokes it is written once there is space."""
    for each in (folder, tmp_path / "own"):
        each.mkdir()
    authorize(tmp_path / "own", GONE)  # which the agent can't write
    listed = document((OTHER,), revoked=(OLD, GONE))
    with SmallVolume(folder) as volume:
        peers = AuthorizedPeers([tmp_path / "own", folder])
        follower = TrustFolder(folder, peers.reload)
        follower.apply(document((OLD, OTHER)))
        volume.fill()
        with pytest.raises(OSError, match="No space left on device"):
            follower.apply(listed)
        assert sorted(path.name for path in folder.glob("*.key")) == ["other.key"]
        assert [peers.judge(pair.public.raw) for pair in (OLD, GONE)] == [Outcome.KEY_REVOKED] * 2
        (warning,) = peers.contents.rejected
        assert warning.startswith(f"no file here revokes {GONE.public.fingerprint} ")
        volume.empty()
        follower.apply(listed)
        assert peers.reload().rejected == ()
        assert known(folder) == expected((OTHER,), (), (OLD, GONE))


def test_what_is_right_already_is_not_written_again(folder: Path) -> None:
    """A heartbeat's worth of documents wears no disk; what is damaged is mended."""
    follower = TrustFolder(folder, REFUSE)
    listed = document((OLD, OTHER), (NEW,), (GONE,))
    follower.apply(listed)
    before = {path: path.stat().st_ino for path in folder.rglob("*.key")}
    follower.apply(listed)
    assert {path: path.stat().st_ino for path in folder.rglob("*.key")} == before
    (folder / "agent.key").write_text("garbage")
    follower.apply(listed)
    assert known(folder) == expected((OLD, OTHER), (NEW,), (GONE,))


BAD = {
    "a current key": lambda good: msgspec.structs.replace(good, current=(*good.current, "garbage")),
    "a next key": lambda good: msgspec.structs.replace(good, next=("",)),
    "a secret": lambda good: msgspec.structs.replace(
        good, current=(good.current[0] + f'    secret-key = "{NEW.secret_z85.decode()}"\n',)
    ),
    "a path for a name": lambda good: msgspec.structs.replace(
        good, current=(good.current[0].replace('"agent"', '"../agent"', 1),)
    ),
    "not ASCII": lambda good: msgspec.structs.replace(good, current=(good.current[0].replace('"pc2"', '"ä"'),)),
    "a fingerprint": lambda good: msgspec.structs.replace(good, revoked=(*good.revoked, "SHA256:../../x")),
    "an empty fingerprint": lambda good: msgspec.structs.replace(good, revoked=("",)),
}


@pytest.mark.parametrize("defect", BAD)
def test_a_bad_document_changes_nothing(folder: Path, defect: str) -> None:
    """Not even what in it is good: it is refused as a whole, with an error that the link knows."""
    follower = TrustFolder(folder, REFUSE)
    follower.apply(document((OLD,), (), (GONE,)))
    before = state(folder)
    good = document((NEW, OTHER), (), (OLD, GONE))
    with pytest.raises(MalformedRequest, match="mainpc's trust document") as refusal:
        follower.apply(BAD[defect](good))
    assert NEW.secret_z85.decode() not in str(refusal.value)
    assert state(folder) == before


class Crash(Exception):
    """The process ends here."""


BEFORE = document((OLD, OTHER, GONE))
AFTER = document((NEW, OTHER), (OLD,), (GONE, new_pair("long-ago")))
STEPS = {"replace_certificate": 2, "move_to_revoked": 1, "write_revoked_fingerprint": 2, "unlink": 4}  # of drafts


@pytest.mark.parametrize(
    ("function", "number", "done"),
    [(name, number, done) for name, times in STEPS.items() for number in range(times) for done in (False, True)],
)
def test_an_interrupted_run_is_finished_by_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int, done: bool
) -> None:
    """Just before a write or just after it; meanwhile a host whose key changes is known at every moment."""
    TrustFolder(folder, REFUSE).apply(BEFORE)
    owner: Any = Path if function == "unlink" else trust
    whole = getattr(owner, function)
    calls = 0

    def cut_short(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 == number:
            if done:
                whole(*arguments, **named)
            raise Crash
        return whole(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, cut_short)
        with pytest.raises(Crash):
            TrustFolder(folder, REFUSE).apply(AFTER)
    meanwhile = read_folders([folder])
    assert meanwhile.rejected == []
    assert OLD.public in {key.public for keys in (meanwhile.current, meanwhile.next) for key in keys.values()}
    TrustFolder(folder, REFUSE).apply(AFTER)
    assert known(folder) == {
        "current": sorted(pair.public.fingerprint for pair in (NEW, OTHER)),
        "next": [OLD.public.fingerprint],
        "revoked": sorted(AFTER.revoked),
    }


def test_the_next_key_is_there_before_the_current_one_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revoked keys go before that, and nothing else is taken away before all else is in place."""
    order: list[str] = []

    def noted(function: Callable[..., Any], word: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            path = next(argument for argument in arguments if isinstance(argument, Path))
            order.append(f"{word} {os.path.relpath(path, folder)}")
            return function(*arguments, **named)

        return call

    TrustFolder(folder, REFUSE).apply(BEFORE)
    monkeypatch.setattr(trust, "replace_certificate", noted(key_writer.replace_certificate, "put"))
    monkeypatch.setattr(trust, "move_to_revoked", noted(key_writer.move_to_revoked, "revoke by moving"))
    monkeypatch.setattr(trust, "write_revoked_fingerprint", noted(key_writer.write_revoked_fingerprint, "revoke in"))
    monkeypatch.setattr(Path, "unlink", noted(Path.unlink, "remove"))
    TrustFolder(folder, REFUSE).apply(AFTER)
    steps = [step for step in order if "draft" not in step]
    revocations = ["revoke by moving gone.key", "revoke in revoked", "revoke in revoked"]
    assert steps == [*revocations, "put agent.next.key", "put agent.key"]


def test_a_folder_that_can_not_be_written_says_so(folder: Path) -> None:
    """The link reports it; existing files stay."""
    follower = TrustFolder(folder, REFUSE)
    follower.apply(document((OTHER,)))
    (folder / "agent.key").mkdir()
    with pytest.raises(OSError, match=r"agent\.key"):
        follower.apply(document((OLD, OTHER)))
    assert "other.key" in state(folder)


@pytest.mark.parametrize("place", ["trust", "trust/revoked"])
def test_a_folder_that_can_not_be_created_stops_the_start(tmp_path: Path, place: str) -> None:
    """A file is in its place."""
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
    with pytest.raises(ConfigurationError, match=f"{tmp_path / place} can't be created"):
        TrustFolder(tmp_path / "trust", REFUSE)


def test_a_revoked_file_has_the_name_that_every_host_understands(folder: Path) -> None:
    """The same as certs-init and mainpc write."""
    TrustFolder(folder, REFUSE).apply(document((), (), (GONE,)))
    assert set(state(folder)) == {f"revoked/{revoked_file_name(GONE.public.fingerprint)}"}


def test_dates_come_along(folder: Path) -> None:
    """A key that ends at mainpc ends here."""
    dated = Certificate(OLD.certificate.owner, OLD.public, parse_certificate(dated_text(), "a file").validity)
    TrustFolder(folder, REFUSE).apply(TrustDocument("r", (render_certificate(dated),), (), ()))
    assert read_folders([folder]).current["agent"] == dated


def dated_text() -> str:
    text = render_certificate(OLD.certificate)
    return text.replace("curve\n", '    not_after = "2027-01-15T08:00:00Z"\ncurve\n')


class Keys:
    """mainpc's keys, and the history that follows them."""

    def __init__(self) -> None:
        self.contents = FolderContents({}, {}, (), frozenset(), ())
        self.history = TrustHistory(lambda: self.contents)

    def change(
        self, current: Iterable[KeyPair] = (), following: Iterable[KeyPair] = (), revoked: Iterable[KeyPair] = ()
    ) -> TrustDocument:
        """Have these keys listed; return the document."""
        listed, next_keys = (
            {pair.certificate.owner.name: pair.certificate for pair in pairs} for pairs in (current, following)
        )
        fingerprints = frozenset(pair.public.fingerprint for pair in revoked)
        self.contents = FolderContents(listed, next_keys, (), fingerprints, ())
        return self.history.document()


def test_a_difference_leads_to_the_document_from_every_revision() -> None:
    """Enrolments, rotations, removals, and revocations, in any order, and several at once."""
    choose = random.Random(1)
    pairs = [new_pair(f"agent-{number}") for number in range(12) for _ in range(2)]
    keys, revoked = Keys(), list[KeyPair]()
    documents = [keys.history.document()]
    for _ in range(60):
        revoked += choose.sample(pairs, choose.choice([0, 0, 1]))
        good = [pair for pair in pairs if pair not in revoked]
        documents.append(keys.change(choose.sample(good, len(good) // 2), choose.sample(good, 2), revoked))
        for base in documents:
            difference = keys.history.since(base.revision)
            assert difference is not None
            assert difference.applied_to(base) == documents[-1] == document_of(keys.contents)
    assert len({each.revision for each in documents}) > 50


def test_a_difference_has_no_more_than_what_changed() -> None:
    pairs = [new_pair(f"agent-{number}") for number in range(50)]
    keys = Keys()
    before = keys.change(pairs, (), [GONE]).revision
    keys.change([*pairs[1:], OTHER], [NEW], [GONE, pairs[0]])
    difference = keys.history.since(before)
    assert difference is not None
    assert difference.changed == ("agent", "agent-0", "other")
    assert (difference.current, difference.next) == ((rendered(OTHER),), (rendered(NEW),))
    assert difference.revoked == (pairs[0].public.fingerprint,)
    unchanged = keys.history.since(keys.history.document().revision)
    assert unchanged is not None
    assert (unchanged.changed, unchanged.current, unchanged.next, unchanged.revoked) == ((), (), (), ())


def rendered(pair: KeyPair) -> str:
    return render_certificate(pair.certificate)


def test_a_revision_that_is_not_remembered_has_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never was, one before a restart, and one that is older than the last ones.

    Changes that leave the document as it is, such as invitations, do not count.
    """
    monkeypatch.setattr(trust, "_REVISIONS", 2)
    keys = Keys()
    revisions = [keys.change([pair]).revision for pair in (OLD, NEW, OTHER, GONE, GONE, GONE)][:4]
    remembered = [keys.history.since(revision) is not None for revision in ["r", *revisions]]
    assert remembered == [False, False, True, True, True]
    assert TrustHistory(lambda: keys.contents).since(revisions[-2]) is None


def test_no_difference_withdraws_a_revocation() -> None:
    """A revoked fingerprint that is no longer in mainpc's folders changes the document as a whole."""
    keys = Keys()
    before = [keys.change([OLD]).revision, keys.change([OLD, OTHER], (), [GONE]).revision]
    after = keys.change([OLD, OTHER])
    assert [keys.history.since(revision) for revision in before] == [None, None]
    assert keys.history.since(after.revision) is not None


def test_a_difference_to_another_document_is_not_applied() -> None:
    """It would list keys that mainpc does not: the digest of the result must be mainpc's revision."""
    keys = Keys()
    base = keys.change([OLD])
    keys.change([OLD, OTHER])
    difference = keys.history.since(base.revision)
    assert difference is not None
    assert difference.applied_to(base) == keys.history.document()
    assert difference.applied_to(document_of(FolderContents({}, {}, (), frozenset(), ()))) is None


class Mainpc:
    """Answers `get_trust` for some keys."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.asked: list[dict[str, Any]] = []

    def get_trust(self, **fields: Any) -> dict[str, Any]:
        self.asked.append(fields)
        answer = self.keys.history.answer(fields.get("since"), fields.get("part"))
        return {**msgspec.to_builtins(answer), "status": "success"}


class OlderMainpc(Mainpc):
    """Ignores the fields, and returns the whole document."""

    def get_trust(self, **fields: Any) -> dict[str, Any]:
        self.asked.append(fields)
        return {**msgspec.to_builtins(self.keys.history.document()), "status": "success"}


class OtherMainpc(Mainpc):
    """Returns differences that do not lead to its revision."""

    def get_trust(self, **fields: Any) -> dict[str, Any]:
        reply = super().get_trust(**fields)
        return {**reply, "current": []} if "since" in reply else reply


@pytest.mark.parametrize(("kind", "calls"), [(Mainpc, 1), (OlderMainpc, 1), (OtherMainpc, 2)])
def test_the_document_is_fetched_whole_if_a_difference_fails(kind: Callable[[Keys], Mainpc], calls: int) -> None:
    keys = Keys()
    base, mainpc = keys.change([OLD]), kind(keys)
    listed = keys.change([OLD, OTHER])
    assert fetch_document(mainpc.get_trust, base) == listed
    assert mainpc.asked == [{"since": base.revision, "part": 0}, {"part": 0}][:calls]


@pytest.mark.parametrize("number", [0, 1, 3, 4, 9, 10])
def test_a_large_document_is_fetched_in_parts(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """None is larger than the others, so that many agents that fetch it at once take little of mainpc's memory."""
    monkeypatch.setattr(trust, "_PART", 3)
    keys, pairs = Keys(), [new_pair(f"agent-{index}") for index in range(number)]
    mainpc, listed = Mainpc(keys), keys.change(pairs, pairs[:2], pairs[1:3])
    assert fetch_document(mainpc.get_trust, document()) == listed
    items = sum(map(len, (listed.current, listed.next, listed.revoked)))
    assert len(mainpc.asked) == max(1, (items + 2) // 3)
    assert [part for part in range(9) if len(listed.part(part).current) > 3] == []


def test_a_difference_that_is_larger_than_a_part_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many keys were enrolled in one step, every agent fetches them in parts."""
    monkeypatch.setattr(trust, "_PART", 3)
    keys, pairs = Keys(), [new_pair(f"agent-{index}") for index in range(7)]
    mainpc, base = Mainpc(keys), keys.change(pairs[:2])
    listed = keys.change(pairs[:5])
    assert fetch_document(mainpc.get_trust, base) == listed
    assert [fields.get("part") for fields in mainpc.asked] == [0]
    listed = keys.change(pairs)
    assert fetch_document(mainpc.get_trust, base) == listed
    assert [fields.get("part") for fields in mainpc.asked[1:]] == [0, 1, 2]
    assert "since" in mainpc.get_trust(since=base.revision)


def test_a_document_that_changes_meanwhile_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two revisions are never joined; if each attempt meets a change, all of it is fetched at once."""
    monkeypatch.setattr(trust, "_PART", 1)
    keys = Keys()
    keys.change([OLD, OTHER])
    mainpc = Mainpc(keys)

    def get_trust(**fields: Any) -> dict[str, Any]:
        reply = mainpc.get_trust(**fields)
        if fields.get("part") == 0 and len(mainpc.asked) <= changes:
            keys.change([OLD, OTHER] if GONE.certificate in keys.contents.current.values() else [NEW, GONE])
        return reply

    for changes in (1, 100):
        mainpc.asked.clear()
        assert fetch_document(get_trust, document()) == keys.history.document()
        assert ({} in mainpc.asked) == (changes == 100)


def test_a_difference_of_another_shape_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="is not a trust document"):
        fetch_document(lambda **_: {"revision": "r", "since": "r", "current": []}, document())
