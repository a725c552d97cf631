"""A host's keys: the source of each, how it reaches an agent, and what it warns of."""

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.identities import authorize, new_pair
from tests.unit.agent.assembled import environment_of
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent import process
from twinhost.agent.health import Health
from twinhost.agent.host_keys import HostKeys
from twinhost.agent.settings import Settings, load_settings
from twinhost.secure_zmq.errors import KeyFileMissing
from twinhost.secure_zmq.key_writer import write_certificate, write_key_pair, write_revocation
from twinhost.secure_zmq.keys import (
    CLOCK_TOLERANCE_S,
    DAY_S,
    Certificate,
    KeyOwner,
    KeyPair,
    Validity,
    load_certificate,
    load_key_pair,
)
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, UnencryptedAddress

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """pc2's."""
    return load_settings(UMRA, environment_of(tmp_path, "pc2"))


def folder_of(settings: Settings) -> Path:
    assert settings.certificates is not None
    return settings.certificates.folder


def dated(pair: KeyPair, not_after: float) -> Certificate:
    return Certificate(pair.certificate.owner, pair.public, Validity(None, int(not_after)))


def test_keys_come_from_three_folders(settings: Settings) -> None:
    """The host's own, what SystemDigitalTwin writes, and what follows mainpc; the latter two may come later."""
    keys = HostKeys(settings)
    assert {peer.name for peer in keys.peers.all()} == {SDT, UMRA, "operator"}
    for name, folder in (("one", folder_of(settings) / "enrolled"), ("two", folder_of(settings) / "trust")):
        folder.mkdir(exist_ok=True)
        authorize(folder, new_pair(name))
    keys.peers.reload()
    assert {peer.name for peer in keys.peers.all()} == {SDT, UMRA, "operator", "one", "two"}


def test_mainpcs_revocation_applies_to_the_hosts_own_folder(settings: Settings) -> None:
    """Which the agent can't write."""
    operator = load_certificate(folder_of(settings) / "operator.key")
    trust = folder_of(settings) / "trust"
    trust.mkdir(exist_ok=True)
    write_revocation(operator, trust / "revoked")
    assert HostKeys(settings).peers.find(operator.public.raw) is None


def test_an_agent_is_reached_with_current_pair_and_pins(settings: Settings) -> None:
    """A rotation on either side reaches a client that is there already."""
    keys = HostKeys(settings)
    agent = settings.config.agent(SDT)
    address = keys.address_of(agent)
    assert isinstance(address, FollowedAddress)
    folder = folder_of(settings)
    own, server = load_key_pair(folder / "client.key_secret"), load_certificate(folder / "server.key")
    assert address.targets() == [SecuredAddress(agent.endpoint, own, server.public)]

    following = KeyPair.generate(server.owner)
    trust = folder_of(settings) / "trust"
    trust.mkdir(exist_ok=True)
    write_certificate(following.certificate, trust / f"{SDT}.next.key")
    keys.peers.reload()
    assert [target.server_key for target in address.targets()] == [server.public, following.public]

    write_revocation(server, trust / "revoked")
    keys.peers.reload()
    assert [target.server_key for target in address.targets()] == [following.public]

    mine = KeyPair.generate(own.certificate.owner)
    (folder / "client.key_secret").unlink()
    write_key_pair(mine, folder / "client.key_secret")
    assert keys.own is not None
    keys.own.look()
    assert [target.own_keys for target in address.targets()] == [mine]


def test_an_agent_whose_key_has_ended_is_not_talked_to(settings: Settings) -> None:
    """Expiry counts on both sides: whoever found the secret of an expired key can't impersonate mainpc with it."""
    server = folder_of(settings) / "server.key"
    pair = KeyPair.generate(load_certificate(server).owner)
    server.unlink()
    write_certificate(dated(pair, time.time() + 5 - CLOCK_TOLERANCE_S), server)
    address = HostKeys(settings).address_of(settings.config.agent(SDT))
    assert isinstance(address, FollowedAddress)
    assert [target.server_key for target in address.targets()] == [pair.public]
    wait_until(lambda: not address.targets(), PATIENCE_S, "the pin ends with its key")


def test_a_pin_that_is_missing_at_the_start_says_so(settings: Settings) -> None:
    """There is nobody to talk to, and the sentence names the file."""
    (folder_of(settings) / "server.key").unlink()
    keys = HostKeys(settings)
    with pytest.raises(KeyFileMissing, match=r"server\.key is missing"):
        keys.address_of(settings.config.agent(SDT))


def test_an_open_link_has_no_keys(tmp_path: Path) -> None:
    """SECURE_ZMQ=0: nobody is known, nothing is followed, nothing is warned of."""
    settings = load_settings(UMRA, environment_of(tmp_path, "pc2", secure=False))
    keys = HostKeys(settings)
    agent = settings.config.agent(SDT)
    assert (keys.own, keys.peers.all(), keys.expiries(), keys.faults()) == (None, (), [], [])
    assert keys.address_of(agent) == UnencryptedAddress(agent.endpoint)


@pytest.mark.parametrize(("days", "warned"), [(400, False), (15, False), (13, True), (0.5, True)])
def test_the_end_of_a_key_is_warned_of(settings: Settings, days: float, warned: bool) -> None:
    """From 14 days before, with its name and its end."""
    pair = new_pair("guest")
    write_certificate(dated(pair, time.time() + days * DAY_S), folder_of(settings) / "guest.key")
    warnings = HostKeys(settings).expiries()
    assert bool(warnings) is warned
    for sentence in warnings:
        assert sentence.startswith(f"the key of guest ({pair.public.fingerprint}) expires 20")


@pytest.mark.parametrize(
    ("ago_s", "said"),
    [(10, "Z and is refused within 60 s"), (3 * DAY_S, "Z and is refused")],
)
def test_an_expired_key_is_warned_of_as_expired(settings: Settings, ago_s: float, said: str) -> None:
    """And not as one that ends on a day that is past; in the log, too."""
    pair = new_pair("guest")
    write_certificate(dated(pair, time.time() - ago_s), folder_of(settings) / "guest.key")
    keys = HostKeys(settings)
    (sentence,) = keys.expiries()
    assert sentence.startswith(f"the key of guest ({pair.public.fingerprint}) expired 20")
    assert sentence.endswith(said)
    with capture_logs() as lines:
        keys.log_expiries()
    events = [line["event"] for line in lines]
    assert events == ["key_ends_soon" if ago_s < CLOCK_TOLERANCE_S else "key_expired"]


def test_an_invitation_that_ends_soon_is_no_warning(settings: Settings) -> None:
    """It is made to."""
    invites = folder_of(settings) / "invites"
    invites.mkdir()
    write_certificate(dated(new_pair("newcomer"), time.time() + 600), invites / "newcomer.key")
    assert HostKeys(settings).expiries() == []


def test_files_that_can_not_be_believed_are_warned_of(settings: Settings) -> None:
    """A bad key file, and a bad secret of this host's own."""
    folder = folder_of(settings)
    (folder / "bad.key").write_text("garbage")
    keys = HostKeys(settings)
    (folder / "client.key_secret").chmod(0o644)
    assert keys.own is not None
    keys.own.look()
    exposed, bad = keys.faults()
    assert "client.key_secret has mode 0644" in exposed
    assert "bad.key" in bad


def test_warnings_are_in_the_document_and_change_no_status(settings: Settings) -> None:
    """Somebody should act in time; the agent serves."""
    health = Health(UMRA, secure=True)
    sentences = ["one"]
    health.warn("first", lambda: sentences)
    health.warn("second", lambda: ["two"], "mend")
    document = health.document()
    assert (document["status"], document["ready"], document["warnings"]) == ("ok", True, ["one", "two; run: mend"])
    assert "warning" not in document
    sentences.clear()
    assert health.document()["warnings"] == ["two; run: mend"]


def test_an_open_link_is_the_first_warning() -> None:
    """Before anything else."""
    health = Health(UMRA, secure=False)
    health.warn("second", lambda: ["two"])
    warnings = health.document()["warnings"]
    assert warnings[0].startswith("SECURE_ZMQ=0: the link is open")
    assert warnings[1:] == ["two"]


def test_the_server_changes_to_another_pair_once(settings: Settings) -> None:
    """Each time that this host's own pair changes, and at no other turn of the loop."""
    keys = HostKeys(settings)
    assert settings.certificates is not None
    changes: list[KeyPair] = []
    follow = process._own_key_follower(keys, settings.certificates.own_keys, changes.append)
    follow()
    assert changes == []
    mine = rotated(settings, keys)
    for _ in range(3):
        follow()
    assert changes == [mine]


def test_a_pair_changed_during_the_start_is_changed_to(settings: Settings) -> None:
    """The watch may see a rotation's switch before the loop has begun: the socket still has the pair of the start."""
    keys = HostKeys(settings)
    assert settings.certificates is not None
    mine = rotated(settings, keys)
    changes: list[KeyPair] = []
    process._own_key_follower(keys, settings.certificates.own_keys, changes.append)()
    assert changes == [mine]


def test_an_open_link_changes_no_key(tmp_path: Path) -> None:
    """There is none."""
    keys = HostKeys(load_settings(UMRA, environment_of(tmp_path, "pc2", secure=False)))
    changes: list[KeyPair] = []
    process._own_key_follower(keys, None, changes.append)()
    assert changes == []


def rotated(settings: Settings, keys: HostKeys) -> KeyPair:
    """Put another pair in the place of this host's, and have it noticed."""
    assert keys.own is not None
    owner: KeyOwner = keys.own().certificate.owner
    mine = KeyPair.generate(owner)
    (folder_of(settings) / "client.key_secret").unlink()
    write_key_pair(mine, folder_of(settings) / "client.key_secret")
    keys.own.look()
    return mine
