"""Replace a key that is in use, without downtime. Each run continues from the files it finds.

`ROTATION` is its table, of which docs/explanation/rotation.md has the picture. `rotate server` runs on the machine that
has the secrets of SystemDigitalTwin and the operator, `rotate client NAME` on the machine that has that secret. They
differ in who knows the next key: SystemDigitalTwin reads its own from its folder; any other is proposed over a
connection that the present key authenticates, and authorised once a connection was made with it.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from enum import Enum
from pathlib import Path

from twinhost.certificates.bundle import read_answer
from twinhost.certificates.following import require_active
from twinhost.certificates.layout import OPERATOR, SERVER, Identity, Layout, Say, to_rotate
from twinhost.certificates.records import DistributionRecord
from twinhost.certificates.running_agents import (
    DEADLINE_S,
    client_of,
    is_reached,
    require_key_refused,
    require_pin_refused,
    retire_older,
    wait_until_followed,
    wait_until_served_with,
)
from twinhost.certificates.tree import locked, own_folders, own_pairs
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import NEXT_SUFFIX, REVOKED_FOLDER, pins_of
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.secure_zmq.key_writer import (
    fsync_folder,
    replace_certificate,
    write_key_pair,
    write_revocation,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyPair, PublicKey, load_certificate, load_key_pair
from twinhost.state_table import StateTable, Transition


class RotationProgress(Enum):
    """How far a rotation is."""

    CURRENT = "Current"
    PREPARED = "Prepared"
    PUBLISHED = "Published"
    FOLLOWED = "Followed"
    SWITCHED = "Switched"
    SERVED = "Served"
    RETIRED = "Retired"
    PROVEN = "Proven"


class RotationFinding(Enum):
    """What a run finds in the files at first, and what came of each step."""

    NO_NEXT = "there is no next key"
    NEXT_PAIR = "there is STEM.next.key_secret"
    NEXT_PUBLIC = "STEM.next.key is in every folder"
    FOLLOWED = "every live agent reports the revision"
    NEXT_IN_USE = "the next secret is in use"
    SERVED = "the owner answers with the new key"
    NO_SERVER = "the owner can't be reached or serves nobody"
    REVOKED = "the old key is revoked"
    REFUSED = "the old key and the old pin are refused"


class RotationWork(Enum):
    """What a run does next; what fails ends it, and the next run begins with what it finds."""

    MAKE = "make the next pair"
    PUBLISH = "put its public half everywhere"
    AWAIT_FOLLOWERS = "wait for the agents"
    SWITCH = "rename it over the current secret"
    AWAIT_OWNER = "wait for the owner"
    RETIRE = "revoke the old key and replace its files"
    PROVE = "try the old key and the old pin"


_P, _F, _W = RotationProgress, RotationFinding, RotationWork
ROTATION: StateTable[RotationProgress, RotationFinding, RotationWork] = StateTable(
    _P.CURRENT,
    Transition(_P.CURRENT, _F.NO_NEXT, _P.CURRENT, _W.MAKE),
    Transition(_P.CURRENT, _F.NEXT_PAIR, _P.PREPARED, _W.PUBLISH),
    Transition(_P.PREPARED, _F.NEXT_PUBLIC, _P.PUBLISHED, _W.AWAIT_FOLLOWERS),
    Transition(_P.PUBLISHED, _F.FOLLOWED, _P.FOLLOWED, _W.SWITCH),
    Transition(_P.FOLLOWED, _F.NEXT_IN_USE, _P.SWITCHED, _W.AWAIT_OWNER),
    Transition(_P.CURRENT, _F.NEXT_IN_USE, _P.SWITCHED, _W.AWAIT_OWNER),
    Transition(_P.SWITCHED, _F.SERVED, _P.SERVED, _W.RETIRE),
    Transition(_P.SWITCHED, _F.NO_SERVER, _P.SERVED, _W.RETIRE),
    Transition(_P.SERVED, _F.REVOKED, _P.RETIRED, _W.PROVE),
    Transition(_P.RETIRED, _F.REFUSED, _P.PROVEN),
)


def rotate_client(layout: Layout, config: NetworkConfig, name: str, say: Say) -> None:
    """Replace an owner's key in the tree that has its secret, and prove that the old one is refused.

    Raises:
        ConfigurationError: the secret is not here, or the old key still works at the end.
        NotAuthorized: SystemDigitalTwin does not authorise the present key, so it can't be rotated.
        ConnectionRefused: an agent does not answer; run it again.
    """
    if name == SERVER:
        raise ConfigurationError(f"{SERVER}'s key is rotated by: {to_rotate(SERVER, layout.root)}")
    with ExitStack() as lock:
        lock.enter_context(locked(layout))
        place = _place_of(layout, name)
        require_active(layout.root / place.folder, name, "rotate")
        _Rotation(layout, config, place, say).run(lock)


def rotate_server(layout: Layout, config: NetworkConfig, say: Say) -> None:
    """Replace SystemDigitalTwin's key on its machine, and prove that the old one is refused.

    Raises:
        ConfigurationError: the tree is not that machine's, or the old key still works at the end.
        ConnectionRefused: SystemDigitalTwin does not answer, or an agent does not follow; run it again.
    """
    place, operator = layout.identity_of(SERVER), layout.identity_of(OPERATOR)
    if place is None or operator is None or layout.server_folder is None:
        raise ConfigurationError(f"the secret of {SERVER} is not in this tree; run this on mainpc")
    require_active(layout.server_folder, SERVER, "rotate")
    asker = load_key_pair(layout.secret_file(operator))
    with ExitStack() as lock:
        lock.enter_context(locked(layout))
        _Rotation(layout, config, place, say, asker).run(lock)


def _place_of(layout: Layout, name: str) -> Identity:
    owners = {pair.certificate.owner.name: pair.certificate.owner for _, pair in own_pairs(layout)}
    if name in owners:
        return layout.place_of(owners[name])
    raise KeyFileMissing(
        f"this tree has no secret of {name}, but of {', '.join(sorted(owners))}; run this on the machine that has it; "
        "a program's key is replaced by: twinhost join --replace LINE"
    )


class _Rotation:
    """One run: what each step does in the files, and which answers of the agents it waits for."""

    def __init__(
        self, layout: Layout, config: NetworkConfig, place: Identity, say: Say, operator: KeyPair | None = None
    ) -> None:
        """Begin with the files as they are; `operator` asks for SystemDigitalTwin's key, any other asks for itself."""
        self._layout, self._place, self._say, self._operator = layout, place, say, operator
        self._name = place.owner.name
        self._mainpc, self._owner = config.agent(SERVER), config.agents.get(self._name)
        self._grace_s = config.limits.registration_ttl_s
        self._secret, self._next_secret = layout.secret_file(place), layout.next_secret_file(place)
        self._folders = own_folders(layout)  # SystemDigitalTwin's first
        self._pair = load_key_pair(self._secret)
        self._next = self._pair  # until another one is made
        self._replaced: KeyPair | None = None  # by this run
        self._old: list[Certificate] = []  # what clients may still pin

    def run(self, lock: ExitStack) -> None:
        """Do what the table says; the proof needs the tree's lock no more."""
        steps = {
            RotationWork.MAKE: self._make,
            RotationWork.PUBLISH: self._publish,
            RotationWork.AWAIT_FOLLOWERS: self._await_followers,
            RotationWork.SWITCH: self._switch,
            RotationWork.AWAIT_OWNER: self._await_owner,
            RotationWork.RETIRE: self._retire,
            RotationWork.PROVE: self._prove,
        }
        self._require_public_keys()
        transition = ROTATION.after(ROTATION.first, self._find())
        while transition.effect is not None:
            if transition.effect is RotationWork.PROVE:
                lock.close()
            transition = ROTATION.after(transition.then, steps[transition.effect]())

    def _require_public_keys(self) -> None:
        """Raise KeyFileMissing, before anything is made, where the key to revoke or the one to ask is not here."""
        if self._operator:
            load_certificate(self._files(PUBLIC_SUFFIX)[0])
        else:
            self._pins()

    def _find(self) -> RotationFinding:
        if self._next_secret.exists():
            return RotationFinding.NEXT_PAIR
        if self._pair.public in [key.public for key in self._keys(NEXT_SUFFIX)]:
            self._say(f"continuing an earlier rotation, which had switched to {self._pair.public.fingerprint}")
            return RotationFinding.NEXT_IN_USE
        return RotationFinding.NO_NEXT

    def _make(self) -> RotationFinding:
        pair = KeyPair.generate(self._place.owner, self._layout.new_validity())
        write_key_pair(pair, self._next_secret)
        self._say(f"the next key of {self._name} is {pair.public.fingerprint}")
        return RotationFinding.NEXT_PAIR

    def _publish(self) -> RotationFinding:
        self._next = self._authorised(load_key_pair(self._next_secret))
        for path in self._files(NEXT_SUFFIX):
            replace_certificate(self._next.certificate, path)
        return RotationFinding.NEXT_PUBLIC

    def _await_followers(self) -> RotationFinding:
        with client_of(self._mainpc, self._asker, self._pins()) as client:
            self._say("waiting until every agent knows the next key")
            wait_until_followed(client, self._next.public, self._grace_s, self._say)
        return RotationFinding.FOLLOWED

    def _switch(self) -> RotationFinding:
        self._next_secret.rename(self._secret)
        fsync_folder(self._secret.parent)
        self._replaced, self._pair = self._pair, self._next
        self._say(f"{self._name} changes from {self._replaced.public.fingerprint} to {self._pair.public.fingerprint}")
        return RotationFinding.NEXT_IN_USE

    def _await_owner(self) -> RotationFinding:
        self._old = [key for key in self._keys(PUBLIC_SUFFIX) if key.public != self._pair.public]
        if self._owner is None:
            return RotationFinding.NO_SERVER
        if self._owner != self._mainpc and not is_reached(self._owner, self._asker, self._pair.public):
            self._say(
                f"{self._name} can't be reached at {self._owner.endpoint}, so its old key is not tested; it will use "
                "the new one"
            )
            self._owner = None
            return RotationFinding.NO_SERVER
        wait_until_served_with(self._owner, self._asker, self._pair.public)
        return RotationFinding.SERVED

    def _retire(self) -> RotationFinding:
        self._revoke()
        paths = self._files(PUBLIC_SUFFIX)
        for path in paths:
            replace_certificate(self._pair.certificate, path)
        DistributionRecord(self._layout.root).add(paths, self._pair.certificate)
        for path in reversed(self._files(NEXT_SUFFIX)):  # by these files the next run sees what is left to do
            path.unlink(missing_ok=True)
            fsync_folder(path.parent)
        return RotationFinding.REVOKED

    def _prove(self) -> RotationFinding:
        if self._replaced is None and not self._old:
            self._say(f"an earlier run had revoked the old key; {self._name} has {self._pair.public.fingerprint}")
        if self._replaced is not None:
            require_key_refused(self._mainpc, self._replaced, self._pins())
            self._say(f"proven: {SERVER} refuses {self._replaced.public.fingerprint}")
        if self._owner is not None:
            for key in self._old:
                require_pin_refused(self._owner, self._asker, key.public)
                self._say(f"proven: {self._name} does not answer a client that pins {key.public.fingerprint}")
        return RotationFinding.REFUSED

    @property
    def _asker(self) -> KeyPair:
        return self._operator or self._next

    def _pins(self) -> Sequence[PublicKey]:
        """The keys that SystemDigitalTwin may have."""
        if self._operator:
            return [self._pair.public]
        if not (pins := pins_of(self._secret.parent, SERVER)):
            raise KeyFileMissing(
                f"{self._secret.parent} has no valid key of {SERVER}; run: {self._layout.command('verify')}"
            )
        return pins

    def _authorised(self, pair: KeyPair) -> KeyPair:
        """Have SystemDigitalTwin know the next key; return it with the validity that it has there."""
        if self._operator:
            return pair  # SystemDigitalTwin reads its folder
        with client_of(self._mainpc, self._pair, self._pins()) as client:
            next_key = pair.public.z85.decode()
            client.call("propose_key", deadline_s=DEADLINE_S, public_key=next_key, may_retire=True)
        with client_of(self._mainpc, pair, self._pins()) as client:  # its handshake proves it
            own = read_answer(client.call("confirm_key", deadline_s=DEADLINE_S)).own
        return KeyPair(own, pair.secret_z85)

    def _revoke(self) -> None:
        """Revoke every other key of the owner, at mainpc and here."""
        old = {key.public.fingerprint: key for key in self._old}
        retired = set(old)
        if not self._operator:
            with client_of(self._mainpc, self._pair, self._pins()) as client:
                retired |= retire_older(client)
        for fingerprint in sorted(retired):
            for folder in self._folders:
                if self._operator:
                    write_revocation(old[fingerprint], folder / REVOKED_FOLDER)
                else:
                    write_revoked_fingerprint(fingerprint, folder / REVOKED_FOLDER)
            self._say(f"the old key {fingerprint} is revoked")

    def _files(self, suffix: str) -> list[Path]:
        return [folder / f"{self._place.stem}{suffix}" for folder in self._folders]

    def _keys(self, suffix: str) -> list[Certificate]:
        keys = (load_certificate(path) for path in self._files(suffix) if path.exists())
        return list({key.public: key for key in keys}.values())
