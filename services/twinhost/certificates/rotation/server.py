"""`rotate server`: another key for SystemDigitalTwin, on the machine that has its secret and an operator's.

The files say how far it came, so a run that was killed is taken up by the next one:

1. `server.next.key_secret`, then `server.next.key` in every folder: the next key is told;
2. the secret takes the place of the old one, in one step: the agent changes to it;
3. the old key is revoked, `server.key` is replaced, and `server.next.key` goes, in mainpc's folder last.
"""

from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.layout import OPERATOR, SERVER, Identity, Layout
from twinhost.certificates.record import DistributionRecord
from twinhost.certificates.rotation.live import (
    Say,
    client_of,
    require_dead_key,
    require_dead_pin,
    wait_until_followed,
    wait_until_served_with,
)
from twinhost.certificates.survey import own_folders
from twinhost.certificates.tree_lock import locked
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.secure_zmq.key_folders import NEXT_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.key_writer import fsync_folder, replace_certificate, write_key_pair, write_revocation
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyPair, load_certificate, load_key_pair


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
        """Return a file's paths in the folders of everybody else on this machine."""
        return [folder / name for folder in own_folders(self.layout) if folder != self.folder]


def rotate_server(layout: Layout, config: NetworkConfig, say: Say) -> None:
    """Give SystemDigitalTwin another key, and prove that the old one is dead.

    Args:
        layout: the tree of the machine that SystemDigitalTwin runs on.
        config: where it is.
        say: told of every step.

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
            retired = None  # an earlier run came that far, and the old secret went with it
        wait_until_served_with(agent, operator, pair.public)
        _retire(files, old, pair.certificate)
    if old.public == pair.public:
        say(f"an earlier run had revoked the old key; {SERVER} has {pair.public.fingerprint}")
        return
    say(f"the old key {old.public.fingerprint} is revoked")
    require_dead_pin(agent, operator, old.public)
    if retired is None:
        say("proven: nobody is answered who pins the old key")
        return
    require_dead_key(agent, retired, [pair.public])
    say("proven: nobody is answered who pins the old key, and nobody gets in with it")


def _start(layout: Layout, config: NetworkConfig) -> tuple[Agent, _Files, KeyPair]:
    place = layout.identity_of(SERVER)
    operator = layout.identity_of(OPERATOR)
    if place is None or operator is None or layout.server_folder is None:
        raise ConfigurationError(f"this tree has not the secret of {SERVER}; run it on its machine")
    own_keys = load_key_pair(layout.secret_file(operator))
    return config.agent(SERVER), _Files(layout, place, layout.server_folder), own_keys


def _stage(files: _Files, say: Say) -> KeyPair:
    """Have the next key told in every folder; return it, wherever its secret is by now."""
    if not files.next_secret.exists() and files.next_public.exists():  # an earlier run came past the switch
        pair = load_key_pair(files.secret)
        if pair.public != load_certificate(files.next_public).public:
            raise KeyFileMissing(
                f"{files.next_secret} is missing and {files.next_public} is there: remove the latter from every folder"
            )
        say(f"taking up a rotation that came to its switch: {pair.public.fingerprint}")
        return pair
    if not files.next_secret.exists():
        pair = KeyPair.generate(files.place.owner, files.layout.new_validity())
        write_key_pair(pair, files.next_secret)
        say(f"the next key of {SERVER} is {pair.public.fingerprint}")
    pair = load_key_pair(files.next_secret)
    for path in [files.next_public, *files.others(files.next_public.name)]:
        replace_certificate(pair.certificate, path)
    return pair


def _retire(files: _Files, old: Certificate, new: Certificate) -> None:
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
