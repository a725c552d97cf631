"""Replace a key that is in use, without downtime. Each run continues from the files it finds.

`rotate server`, on the machine that has the secrets of SystemDigitalTwin and the operator:

1. `server.next.key_secret`, then `server.next.key` in every folder: SystemDigitalTwin publishes the next key;
2. the secret takes the place of the old one, in one step: the agent changes to it;
3. the old key is revoked, `server.key` is replaced, and `server.next.key` is removed, in mainpc's folder last.

`rotate client NAME`, for every other key, on the machine that has its secret:

1. `STEM.next.key_secret` is made and proposed over a connection that the present key authenticates; SystemDigitalTwin
   authorises it, beside the present one, once a connection was made with it;
2. `STEM.next.key` is put beside the public keys of this machine, so that every client that pins NAME knows it;
3. the secret takes the place of the old one, in one step: the agent changes to it;
4. SystemDigitalTwin revokes the old key, and the files follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.bundle import TrustMaterial, read_answer
from twinhost.certificates.layout import OPERATOR, SERVER, Identity, Layout, to_rotate
from twinhost.certificates.records import DistributionRecord
from twinhost.certificates.running_agents import (
    DEADLINE_S,
    Say,
    client_of,
    is_reached,
    require_key_refused,
    require_pin_refused,
    wait_until_followed,
    wait_until_served_with,
)
from twinhost.certificates.tree import locked, own_folders, own_pairs
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.certificates import NEXT_SUFFIX, REVOKED_FOLDER, pins_of
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, remove_command
from twinhost.secure_zmq.key_writer import (
    fsync_folder,
    replace_certificate,
    write_key_pair,
    write_revocation,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyPair, PublicKey, load_certificate, load_key_pair


def rotate_client(layout: Layout, config: NetworkConfig, name: str, say: Say) -> None:
    """Replace an owner's key, and prove that the old one is refused.

    Args:
        layout: the tree that has the secret.
        config: where SystemDigitalTwin is, and the owner, if it is an agent.
        name: the key's owner.
        say: is called with a line for every step.

    Raises:
        ConfigurationError: the secret is not here, or the old key still works at the end.
        NotAuthorized: SystemDigitalTwin does not authorise the present key, so it can't be rotated.
        ConnectionRefused: an agent does not answer; run it again.
    """
    if name == SERVER:
        raise ConfigurationError(f"{SERVER}'s key is rotated by: {to_rotate(SERVER, layout.root)}")
    with locked(layout):
        place = _place_of(layout, name)
        mainpc, server = config.agent(SERVER), config.agents.get(name)
        present, pins = load_key_pair(layout.secret_file(place)), _pins(layout, place)
        retired = None
        if layout.next_secret_file(place).exists() or not _left_by_an_earlier_run(layout, place, present):
            retired, present = present, _switch(layout, place, config, present, pins, say)
        else:  # and removed the old secret
            say(f"continuing an earlier rotation, which had switched to {present.public.fingerprint}")
        old = [key for key in _public_keys(layout, place) if key != present.public]
        if server is not None and not is_reached(server, present, present.public):
            say(f"{name} can't be reached at {server.endpoint}, so its old key is not tested; it will use the new one")
            server = None
        if server is not None:
            wait_until_served_with(server, present, present.public)
        _retire_client_keys(layout, place, mainpc, present, pins, say)
    if retired is not None:
        require_key_refused(mainpc, retired, pins)
        say(f"proven: {SERVER} refuses {retired.public.fingerprint}")
    if server is not None:
        for pin in old:
            require_pin_refused(server, present, pin)
            say(f"proven: {name} does not answer a client that pins {pin.fingerprint}")


def _switch(
    layout: Layout, place: Identity, config: NetworkConfig, old: KeyPair, pins: Sequence[PublicKey], say: Say
) -> KeyPair:
    """Put the next key in the place of the present one, once every agent knows it."""
    mainpc = config.agent(SERVER)
    new = _next_pair(layout, place, old, say)
    own = _propose(mainpc, old, new, pins).own
    for folder in own_folders(layout):
        replace_certificate(own, folder / f"{place.stem}{NEXT_SUFFIX}")
    with client_of(mainpc, new, pins) as client:
        say("waiting until every agent knows the next key")
        wait_until_followed(client, SERVER, new.public, config.limits.registration_ttl_s, say)
    layout.next_secret_file(place).rename(layout.secret_file(place))
    fsync_folder(layout.root / place.folder)
    say(f"{place.owner.name} changes from {old.public.fingerprint} to {new.public.fingerprint}")
    return KeyPair(own, new.secret_z85)


def _place_of(layout: Layout, name: str) -> Identity:
    owners = {pair.certificate.owner.name: pair.certificate.owner for _, pair in own_pairs(layout)}
    if name in owners:
        return layout.place_of(owners[name])
    raise KeyFileMissing(
        f"this tree has no secret of {name}, but of {', '.join(sorted(owners))}; run this on the machine that has it; "
        "a program's key is replaced by: twinhost join --replace LINE"
    )


def _pins(layout: Layout, place: Identity) -> Sequence[PublicKey]:
    pins = pins_of(layout.root / place.folder, SERVER)
    if not pins:
        raise KeyFileMissing(
            f"{layout.root / place.folder} has no valid key of {SERVER}; run: {layout.command('verify')}"
        )
    return pins


def _next_pair(layout: Layout, place: Identity, old: KeyPair, say: Say) -> KeyPair:
    path = layout.next_secret_file(place)
    if not path.exists():
        pair = KeyPair.generate(old.certificate.owner, layout.new_validity())
        write_key_pair(pair, path)
        say(f"the next key of {place.owner.name} is {pair.public.fingerprint}")
    return load_key_pair(path)


def _propose(mainpc: Agent, old: KeyPair, new: KeyPair, pins: Sequence[PublicKey]) -> TrustMaterial:
    """Have SystemDigitalTwin authorise the next key, which proves itself by its own handshake."""
    with client_of(mainpc, old, pins) as client:
        client.call("propose_key", deadline_s=DEADLINE_S, public_key=new.public.z85.decode())
    with client_of(mainpc, new, pins) as client:
        return read_answer(client.call("confirm_key", deadline_s=DEADLINE_S))


def _left_by_an_earlier_run(layout: Layout, place: Identity, present: KeyPair) -> bool:
    return any(key == present.public for key in _next_keys(layout, place))


def _retire_client_keys(
    layout: Layout, place: Identity, mainpc: Agent, own: KeyPair, pins: Sequence[PublicKey], say: Say
) -> None:
    """Have every other key of this owner revoked, at mainpc and here; the files of the rotation are removed last."""
    with client_of(mainpc, own, pins) as client:
        retired = client.call("retire_keys", deadline_s=DEADLINE_S)["retired"]
    others = {key.fingerprint for key in _public_keys(layout, place) if key != own.public} | set(retired)
    for fingerprint in sorted(others):
        for folder in own_folders(layout):
            write_revoked_fingerprint(fingerprint, folder / REVOKED_FOLDER)
        say(f"the old key {fingerprint} is revoked")
    paths = [folder / f"{place.stem}{PUBLIC_SUFFIX}" for folder in own_folders(layout)]
    for path in paths:
        replace_certificate(own.certificate, path)
    DistributionRecord(layout.root).add(paths, own.certificate)
    for folder in own_folders(layout):
        (folder / f"{place.stem}{NEXT_SUFFIX}").unlink(missing_ok=True)
        fsync_folder(folder)


def _public_keys(layout: Layout, place: Identity) -> list[PublicKey]:
    return _keys(layout, f"{place.stem}{PUBLIC_SUFFIX}")


def _next_keys(layout: Layout, place: Identity) -> list[PublicKey]:
    return _keys(layout, f"{place.stem}{NEXT_SUFFIX}")


def _keys(layout: Layout, name: str) -> list[PublicKey]:
    paths = [folder / name for folder in own_folders(layout)]
    return list(dict.fromkeys(load_certificate(path).public for path in paths if path.exists()))


@dataclass(frozen=True, slots=True)
class _Files:
    """Where the two keys lie."""

    layout: Layout
    place: Identity
    folder: Path

    @property
    def secret(self) -> Path:
        return self.layout.secret_file(self.place)

    @property
    def next_secret(self) -> Path:
        return self.layout.next_secret_file(self.place)

    @property
    def public(self) -> Path:
        return self.folder / f"{self.place.stem}{PUBLIC_SUFFIX}"

    @property
    def next_public(self) -> Path:
        return self.folder / f"{self.place.stem}{NEXT_SUFFIX}"

    def others(self, name: str) -> list[Path]:
        """Return a file's paths in the other folders of this machine."""
        return [folder / name for folder in own_folders(self.layout) if folder != self.folder]


def rotate_server(layout: Layout, config: NetworkConfig, say: Say) -> None:
    """Replace SystemDigitalTwin's key, and prove that the old one is refused.

    Args:
        layout: the tree of the machine that SystemDigitalTwin runs on.
        config: where it is.
        say: is called with a line for every step.

    Raises:
        ConfigurationError: the tree is not that machine's, or the old key still works at the end.
        ConnectionRefused: SystemDigitalTwin does not answer, or an agent does not follow; run it again.
    """
    agent, files, operator = _start(layout, config)
    with locked(layout):
        old = load_certificate(files.public)
        pair = _stage(files, say)
        if files.next_secret.exists():
            with client_of(agent, operator, [old.public]) as client:
                say("waiting until every agent knows the next key")
                wait_until_followed(client, SERVER, pair.public, config.limits.registration_ttl_s, say)
            retired = load_key_pair(files.secret)
            files.next_secret.rename(files.secret)
            fsync_folder(files.folder)
            say(f"{SERVER} changes from {retired.public.fingerprint} to {pair.public.fingerprint}")
        else:
            retired = None  # an earlier run switched the secret, and the old one is gone
        wait_until_served_with(agent, operator, pair.public)
        _retire_server_key(files, old, pair.certificate)
    if old.public == pair.public:
        say(f"an earlier run had revoked the old key; {SERVER} has {pair.public.fingerprint}")
        return
    say(f"the old key {old.public.fingerprint} is revoked")
    require_pin_refused(agent, operator, old.public)
    if retired is None:
        say(f"proven: {SERVER} does not answer a client that pins the old key")
        return
    require_key_refused(agent, retired, [pair.public])
    say(f"proven: {SERVER} does not answer a client that pins the old key, and refuses the old key itself")


def _start(layout: Layout, config: NetworkConfig) -> tuple[Agent, _Files, KeyPair]:
    place = layout.identity_of(SERVER)
    operator = layout.identity_of(OPERATOR)
    if place is None or operator is None or layout.server_folder is None:
        raise ConfigurationError(f"the secret of {SERVER} is not in this tree; run this on mainpc")
    own_keys = load_key_pair(layout.secret_file(operator))
    return config.agent(SERVER), _Files(layout, place, layout.server_folder), own_keys


def _stage(files: _Files, say: Say) -> KeyPair:
    """Put the next public key into every folder; return the pair, wherever its secret is by now."""
    if not files.next_secret.exists() and files.next_public.exists():  # an earlier run switched the secret
        pair = load_key_pair(files.secret)
        if pair.public != load_certificate(files.next_public).public:
            raise KeyFileMissing(
                f"{files.next_secret} is missing and {files.next_public} is there; remove it from every folder: "
                f"{remove_command(files.next_public, *files.others(files.next_public.name))}"
            )
        say(f"continuing an earlier rotation, which had switched to {pair.public.fingerprint}")
        return pair
    if not files.next_secret.exists():
        pair = KeyPair.generate(files.place.owner, files.layout.new_validity())
        write_key_pair(pair, files.next_secret)
        say(f"the next key of {SERVER} is {pair.public.fingerprint}")
    pair = load_key_pair(files.next_secret)
    for path in [files.next_public, *files.others(files.next_public.name)]:
        replace_certificate(pair.certificate, path)
    return pair


def _retire_server_key(files: _Files, old: Certificate, new: Certificate) -> None:
    if old.public != new.public:
        for folder in [files.folder, *(path.parent for path in files.others(files.public.name))]:
            write_revocation(old, folder / REVOKED_FOLDER)
    paths = [files.public, *files.others(files.public.name)]
    for path in paths:
        replace_certificate(new, path)
    DistributionRecord(files.layout.root).add(paths, new)
    for path in [*files.others(files.next_public.name), files.next_public]:
        path.unlink(missing_ok=True)
        fsync_folder(path.parent)
