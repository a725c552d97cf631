"""One use of a stolen key takes no key from its owner: retirements that wait, and who ends them."""

import pytest

from tests.identities import new_pair
from tests.unit.secure_zmq.wall_clock import NOW, WallClock
from tests.unit.system_digital_twin.key_bench import QUIET_S, KeyBench, key_bench, key_clock
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.keys import DAY_S, Certificate, KeyPair, Validity
from twinhost.system_digital_twin.trust.retirements import RETIREMENTS_FILE

pytestmark = pytest.mark.sdt_security


clock, bench = key_clock, key_bench


def successor(bench: KeyBench, stolen: KeyPair, *, agrees: bool = False) -> KeyPair:
    """Return a key that whoever has the stolen one proposed and confirmed."""
    pair = new_pair("made-by-a-thief")
    assert bench.propose("propose_key", stolen, pair, may_retire=agrees)["status"] == "success"
    assert bench.ask("confirm_key", pair)["status"] == "success"
    return pair


def uses(bench: KeyBench, *pairs: KeyPair) -> None:
    """Let the holders of keys have sent a message just now, and nobody else."""
    bench.peers.last_seen = dict.fromkeys((pair.public.fingerprint for pair in pairs), bench.clock.time()).get


def test_one_use_of_a_stolen_key_locks_nobody_out(bench: KeyBench, clock: WallClock) -> None:
    """Proposed, confirmed, and asked to retire the owner's: that takes a day, in which health says so."""
    owners = bench.list_key("agent")
    thiefs = successor(bench, owners)
    reply = bench.ask("retire_keys", thiefs)
    assert reply["retired"] == []
    assert [key["fingerprint"] for key in reply["waiting"]] == [owners.public.fingerprint]
    assert bench.is_in(owners)
    ((older, retirement),) = bench.actions.contested()
    assert (older, retirement.newer) == (owners.public.fingerprint, thiefs.public.fingerprint)
    assert ("retirement_asked", "agent") in bench.events()
    clock.now += DAY_S - 1
    bench.tick()
    assert bench.is_in(owners)


def test_the_owner_undoes_it_with_the_older_key(bench: KeyBench, clock: WallClock) -> None:
    """The newer key is out; what it asked for never happens."""
    owners = bench.list_key("agent")
    thiefs = successor(bench, owners)
    bench.ask("retire_keys", thiefs)
    assert bench.ask("retire_keys", owners) == {"status": "success", "retired": [thiefs.public.fingerprint]}
    assert (bench.standing(thiefs), [*bench.actions.contested()]) == ("revoked", [])
    clock.now += 2 * DAY_S
    bench.tick()
    assert bench.is_in(owners)
    assert ("retirement_withdrawn", "agent") in bench.events()


def test_a_thief_in_touch_does_not_stop_the_undoing(bench: KeyBench, clock: WallClock) -> None:
    """Both keys stay; the thief may ask again, and waits for another day, with another warning."""
    owners = bench.list_key("agent")
    thiefs = successor(bench, owners)
    bench.ask("retire_keys", thiefs)
    uses(bench, thiefs)
    assert bench.ask("retire_keys", owners)["waiting"] == [{"fingerprint": thiefs.public.fingerprint, "until": None}]
    clock.now += DAY_S
    bench.tick()
    assert (bench.is_in(owners), [*bench.actions.contested()]) == (True, [])
    bench.ask("retire_keys", thiefs)
    assert (bench.is_in(owners), len([*bench.actions.contested()])) == (True, 1)


def test_a_day_later_the_older_key_is_revoked(bench: KeyBench, clock: WallClock) -> None:
    """A restart changes nothing, asking again neither; the newer key is the current one then."""
    old = bench.list_key("agent")
    new = successor(bench, old)
    first = bench.ask("retire_keys", new)
    clock.now += DAY_S / 2
    bench.reopen()
    assert len([*bench.actions.contested()]) == 1
    assert bench.ask("retire_keys", new) == first
    clock.now += DAY_S / 2
    bench.tick()
    assert (bench.standing(old), bench.peers.public_key_of("agent")) == ("revoked", new.public.z85)
    assert [*bench.actions.contested()] == []
    assert bench.events().count(("key_rotated", "agent")) == 1
    assert (bench.root / RETIREMENTS_FILE).read_text() == "{}"


def test_an_agreement_counts_once_nobody_uses_the_key(bench: KeyBench, clock: WallClock) -> None:
    """Whoever stole a key can agree in its name; its owner goes on using it. A rotation waits for a moment."""
    old = bench.list_key("agent")
    new = successor(bench, old, agrees=True)
    uses(bench, old)
    assert bench.ask("retire_keys", new)["retired"] == []
    assert (bench.is_in(old), [*bench.actions.contested()]) == (True, []), "it is a rotation, for now"
    clock.now += QUIET_S
    assert bench.ask("retire_keys", new) == {"status": "success", "retired": [old.public.fingerprint]}


def test_an_agreement_over_a_used_key_is_a_warning(bench: KeyBench, clock: WallClock) -> None:
    """The owner has a day, as without the agreement."""
    owners = bench.list_key("agent")
    thiefs = successor(bench, owners, agrees=True)
    for _ in range(20):
        uses(bench, owners)
        assert bench.ask("retire_keys", thiefs)["retired"] == []
        clock.now += QUIET_S
    assert len([*bench.actions.contested()]) == 1
    uses(bench, owners)
    bench.ask("retire_keys", owners)
    assert (bench.is_in(owners), bench.standing(thiefs)) == (True, "revoked")


def test_an_agreement_is_about_one_newer_key(bench: KeyBench) -> None:
    """Another one that takes its place has to wait."""
    old = bench.list_key("agent")
    successor(bench, old, agrees=True)
    other = successor(bench, old)
    assert bench.ask("retire_keys", other)["retired"] == []
    assert bench.is_in(old)


def test_a_newer_key_in_use_is_not_put_out(bench: KeyBench, clock: WallClock) -> None:
    """Amid a rotation whoever has the older key neither revokes the newer one nor puts another in its place."""
    stolen = bench.list_key("agent")
    owners = successor(bench, stolen, agrees=True)
    uses(bench, owners)
    assert bench.ask("retire_keys", stolen)["retired"] == []
    pair = new_pair()
    bench.propose("propose_key", stolen, pair)
    refused = bench.ask("confirm_key", pair)
    assert (refused["code"], bench.is_in(owners)) == ("not_granted", True)
    clock.now += QUIET_S
    assert bench.ask("confirm_key", pair)["status"] == "success", "a host that lost it begins again"


def test_an_expired_key_is_retired_at_once(bench: KeyBench, clock: WallClock) -> None:
    """It has nothing to agree to."""
    old = bench.list_key("agent", validity=Validity(None, NOW + 100))
    new = successor(bench, old)
    clock.now += 200
    assert bench.ask("retire_keys", new)["retired"] == [old.public.fingerprint]


@pytest.mark.parametrize("gone", ["newer", "older"])
def test_a_revocation_by_hand_settles_it(bench: KeyBench, clock: WallClock, gone: str) -> None:
    """Whichever key an operator revokes; the other one stays."""
    old = bench.list_key("agent")
    new = successor(bench, old)
    bench.ask("retire_keys", new)
    bench.revoke(new if gone == "newer" else old)
    bench.tick()
    clock.now += 2 * DAY_S
    bench.tick()
    kept = old if gone == "newer" else new
    assert ([*bench.actions.contested()], bench.peers.keys_of("agent")) == ([], [kept.public])


def test_an_unreadable_file_takes_no_key(bench: KeyBench, clock: WallClock) -> None:
    """Nor does it end the agent; whoever wants the older key retired asks again."""
    old = bench.list_key("agent")
    new = successor(bench, old)
    bench.ask("retire_keys", new)
    (bench.root / RETIREMENTS_FILE).write_text("{")
    bench.reopen()
    clock.now += 2 * DAY_S
    bench.tick()
    assert bench.is_in(old)
    assert bench.ask("retire_keys", new)["waiting"]


def test_what_can_not_be_revoked_is_tried_again(
    bench: KeyBench, clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume is full: the tick goes on, and the audit log does not fill with attempts."""
    old = bench.list_key("agent")
    new = successor(bench, old)
    bench.ask("retire_keys", new)
    clock.now += DAY_S

    def full(_: Certificate) -> None:
        raise StoreUnavailable("no space is left")

    with monkeypatch.context() as patched:
        patched.setattr(bench.enrolled, "revoke", full)
        for _ in range(3):
            bench.tick()
    assert (bench.is_in(old), bench.events().count(("key_rotated", "agent"))) == (True, 1)
    bench.reopen()
    bench.tick()
    assert bench.standing(old) == "revoked"
