"""`rotate client NAME`: another key for anybody but SystemDigitalTwin, on the machine that has the secret.

The secret is made here and never leaves. SystemDigitalTwin is told the next public key over a
connection that the present key proves, and lets it in once a connection was made with it:

1. `STEM.next.key_secret` is made and proposed; confirmed, it is good beside the present one;
2. `STEM.next.key` is put beside the public keys of this machine, so that whoever pins NAME knows it;
3. the secret takes the place of the old one, in one step: the agent changes to it;
4. SystemDigitalTwin revokes the old key, and the files follow.

Every step may be repeated, so a run that was killed is taken up by the next one.
"""

from collections.abc import Sequence

from twinhost.certificates.bundle import TrustMaterial, read_answer
from twinhost.certificates.layout import SERVER, Identity, Layout
from twinhost.certificates.record import DistributionRecord
from twinhost.certificates.rotation.live import (
    DEADLINE_S,
    Say,
    client_of,
    is_reached,
    require_dead_key,
    require_dead_pin,
    wait_until_followed,
    wait_until_served_with,
)
from twinhost.certificates.survey import own_folders, own_pairs
from twinhost.certificates.tree_lock import locked
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.certificates import pins_of
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.secure_zmq.key_folders import NEXT_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.key_writer import fsync_folder, replace_certificate, write_key_pair, write_revoked_fingerprint
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, KeyPair, PublicKey, load_certificate, load_key_pair


def rotate_client(layout: Layout, config: NetworkConfig, name: str, say: Say) -> None:
    """Give a named owner another key, and prove that the old one is dead.

    Args:
        layout: the tree that has the secret.
        config: where SystemDigitalTwin is, and the owner, if it is an agent.
        name: the key's owner.
        say: told of every step.

    Raises:
        ConfigurationError: the secret is not here, or the old key still works at the end.
        NotAuthorized: SystemDigitalTwin does not let the present key in, so there is nothing to rotate.
        ConnectionRefused: somebody does not answer; run it again.
    """
    if name == SERVER:
        raise ConfigurationError(f"{SERVER}'s key is rotated by: certs-init rotate server")
    with locked(layout):
        place = _place_of(layout, name)
        mainpc, server = config.agent(SERVER), config.agents.get(name)
        present, pins = load_key_pair(layout.secret_file(place)), _pins(layout, place)
        retired = None
        if layout.next_secret_file(place).exists() or not _left_by_an_earlier_run(layout, place, present):
            retired, present = present, _switch(layout, place, config, present, pins, say)
        else:  # the old secret went then
            say(f"taking up a rotation that came to its switch: {present.public.fingerprint}")
        old = [key for key in _public_keys(layout, place) if key != present.public]
        if server is not None and not is_reached(server, present, present.public):
            say(f"{name} is not reached at {server.endpoint}, so nothing is proven of it; it starts with the new key")
            server = None
        if server is not None:
            wait_until_served_with(server, present, present.public)
        _retire(layout, place, mainpc, present, pins, say)
    if retired is not None:
        require_dead_key(mainpc, retired, pins)
        say(f"proven: {SERVER} lets nobody in with {retired.public.fingerprint}")
    if server is not None:
        for pin in old:
            require_dead_pin(server, present, pin)
            say(f"proven: {name} answers nobody who pins {pin.fingerprint}")


def _switch(
    layout: Layout, place: Identity, config: NetworkConfig, old: KeyPair, pins: Sequence[PublicKey], say: Say
) -> KeyPair:
    """Put the next key in the place of the present one, once everybody whom this machine has knows it."""
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
    for _, pair in own_pairs(layout):
        if pair.certificate.owner.name == name:
            return layout.place_of(pair.certificate.owner)
    raise KeyFileMissing(f"this tree has not the secret of {name}; run it on the machine that has it")


def _pins(layout: Layout, place: Identity) -> Sequence[PublicKey]:
    pins = pins_of(layout.root / place.folder, SERVER)
    if not pins:
        raise KeyFileMissing(f"{layout.root / place.folder} has no good key of {SERVER}; run certs-init verify")
    return pins


def _next_pair(layout: Layout, place: Identity, old: KeyPair, say: Say) -> KeyPair:
    path = layout.next_secret_file(place)
    if not path.exists():
        pair = KeyPair.generate(old.certificate.owner, layout.new_validity())
        write_key_pair(pair, path)
        say(f"the next key of {place.owner.name} is {pair.public.fingerprint}")
    return load_key_pair(path)


def _propose(mainpc: Agent, old: KeyPair, new: KeyPair, pins: Sequence[PublicKey]) -> TrustMaterial:
    """Have SystemDigitalTwin let the next key in, which proves itself by its own handshake."""
    with client_of(mainpc, old, pins) as client:
        client.call("propose_key", deadline_s=DEADLINE_S, public_key=new.public.z85.decode())
    with client_of(mainpc, new, pins) as client:
        return read_answer(client.call("confirm_key", deadline_s=DEADLINE_S))


def _left_by_an_earlier_run(layout: Layout, place: Identity, present: KeyPair) -> bool:
    return any(key == present.public for key in _next_keys(layout, place))


def _retire(layout: Layout, place: Identity, mainpc: Agent, own: KeyPair, pins: Sequence[PublicKey], say: Say) -> None:
    """Have every other key of this owner revoked, at mainpc and here; the files of the rotation go last."""
    with client_of(mainpc, own, pins) as client:
        retired = client.call("retire_keys", deadline_s=DEADLINE_S)["retired"]
    others = {key.fingerprint for key in _public_keys(layout, place) if key != own.public} | set(retired)
    for fingerprint in sorted(others):
        for folder in own_folders(layout):
            write_revoked_fingerprint(fingerprint, folder / REVOKED_FOLDER)
        say(f"the old key {fingerprint} is revoked, and gets nobody in")
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
