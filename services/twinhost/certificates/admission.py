"""Who may come in: invitations and requests in mainpc's tree, made, accepted, listed, and withdrawn."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from twinhost.certificates.bundle import TrustMaterial, material_of
from twinhost.certificates.generate import distribute, require_not_revoked
from twinhost.certificates.invitation import Invitation
from twinhost.certificates.layout import SERVER, Identity, Layout
from twinhost.certificates.names import require_newcomer
from twinhost.certificates.record import DistributionRecord
from twinhost.certificates.survey import (
    REQUESTS_FOLDER,
    FoundKey,
    found_keys,
    is_revoked,
    keys_in,
    live_keys,
)
from twinhost.certificates.tree_lock import locked
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_folders import INVITES_FOLDER, read_folders
from twinhost.secure_zmq.key_writer import fsync_folder, replace_certificate
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyOwner, KeyPair, load_certificate
from twinhost.secure_zmq.validity import Validity


@dataclass(frozen=True, slots=True)
class Pending:
    """Somebody who may come in, or asks for it."""

    what: str  # "invitation" or "request"
    certificate: Certificate


def server_folder(layout: Layout, command: str) -> Path:
    """Return SystemDigitalTwin's folder.

    Raises:
        ConfigurationError: it is another machine's tree, or its keys were not made.
    """
    folder = layout.server_folder
    if folder is None:
        raise ConfigurationError(
            f"{command} belongs to mainpc, where {SERVER} runs, and {layout.root} is another machine's tree; "
            "run it there"
        )
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is missing; run: docker compose run --rm certs-init")
    return folder


def invite(layout: Layout, config: NetworkConfig, owner: KeyOwner, minutes: int, *, again: bool = False) -> Invitation:
    """Authorise a one-time key to enrol somebody; its secret is in the returned invitation and nowhere else.

    Args:
        layout: mainpc's tree.
        config: which roles there are.
        owner: whose name, host, and roles the new key gets.
        minutes: how long the invitation is good.
        again: whether an open invitation of that name is withdrawn for the new one.

    Raises:
        ConfigurationError: nobody of that kind can be let in, or somebody has that name already.
    """
    folder = server_folder(layout, "invite")
    require_newcomer(layout, config, owner)
    server = config.agent(SERVER)
    with locked(layout):
        server_key = load_certificate(folder / f"{server.key}{PUBLIC_SUFFIX}").public
        _require_unknown(layout, owner.name)
        path = folder / INVITES_FOLDER / f"{owner.name}{PUBLIC_SUFFIX}"
        if _open_invitation(layout, path) and not again:
            raise ConfigurationError(
                f"{owner.name} has an open invitation, whose line was shown once; for a new line in its place, repeat "
                f"this with --again; to withdraw it: certs-init reject {owner.name}"
            )
        now = int(time.time())
        token = KeyPair.generate(owner, Validity(now, now + minutes * 60))
        replace_certificate(token.certificate, path)
    not_after = now + minutes * 60
    return Invitation(server.host.authority(server.zmq_port), server_key, token, not_after)


def pending(layout: Layout) -> list[Pending]:
    """Return invitations that nobody used yet, also those that are over, and the requests that were kept."""
    folder = server_folder(layout, "pending")
    invitations = [key for key in keys_in(folder / INVITES_FOLDER) if not is_revoked(layout, key.certificate)]
    requests = keys_in(folder / REQUESTS_FOLDER)
    return [
        *(Pending("invitation", key.certificate) for key in invitations),
        *(Pending("request", key.certificate) for key in requests),
    ]


def reject(layout: Layout, name: str) -> list[Pending]:
    """Withdraw an invitation, or drop a request; return what there was.

    Raises:
        ConfigurationError: there is neither, or the invitation was used.
    """
    folder = server_folder(layout, "reject")
    with locked(layout):
        used = False
        rejected: list[Pending] = []
        for what, inner in (("invitation", INVITES_FOLDER), ("request", REQUESTS_FOLDER)):
            for key in list(keys_in(folder / inner)):
                if key.certificate.owner.name == name:
                    gone = what == "invitation" and is_revoked(layout, key.certificate)
                    used = used or gone
                    key.path.unlink()
                    fsync_folder(key.path.parent)
                    if not gone:
                        rejected.append(Pending(what, key.certificate))
    if rejected:
        return rejected
    if used or live_keys(layout, name):
        raise ConfigurationError(f"{name} has a key already; to keep it out: certs-init revoke {name}")
    raise ConfigurationError(f"there is no open invitation and no request of {name!r}; see: certs-init pending")


def kept_request(layout: Layout, name: str) -> Certificate | None:
    """Return a request that was kept for a decision."""
    folder = server_folder(layout, "accept")
    found = (key.certificate for key in keys_in(folder / REQUESTS_FOLDER) if key.certificate.owner.name == name)
    return next(found, None)


def check_request(layout: Layout, config: NetworkConfig, request: Certificate, source: str) -> Identity:
    """Return where a requested key belongs.

    Raises:
        ConfigurationError: nobody may have it accepted: it is revoked, another has that name, or it is another's key.
    """
    folder = server_folder(layout, "accept")
    place = require_newcomer(layout, config, request.owner)
    require_not_revoked(layout, request, source)
    _require_unknown(layout, request.owner.name, but=request)
    for key in found_keys(layout):
        if key.certificate.public == request.public and key.certificate.owner != request.owner:
            raise ConfigurationError(f"{source} is the key of {key.certificate.owner.name}; let it make its own")
    if _open_invitation(layout, folder / INVITES_FOLDER / f"{request.owner.name}{PUBLIC_SUFFIX}"):
        raise ConfigurationError(
            f"{request.owner.name} has an open invitation; withdraw it first: certs-init reject {request.owner.name}"
        )
    return place


def keep_request(layout: Layout, request: Certificate) -> Path:
    """Keep a request for a decision, in the place of an earlier one of that name."""
    folder = server_folder(layout, "accept") / REQUESTS_FOLDER
    with locked(layout):
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{request.owner.name}{PUBLIC_SUFFIX}"
        replace_certificate(request, path)
    return path


def accept(layout: Layout, config: NetworkConfig, request: Certificate, source: str) -> TrustMaterial:
    """Authorise a requested key from now on, for as long as keys are good here, and return what its owner needs.

    Accepted again, it stays as it was accepted.

    Raises:
        ConfigurationError: as `check_request`.
    """
    folder = server_folder(layout, "accept")
    with locked(layout):
        place = check_request(layout, config, request, source)
        known = next(_known(layout, request), None)
        own = known or replace(request, validity=layout.new_validity())
        record = DistributionRecord(layout.root)
        if layout.identity_of(own.owner.name) is not None:
            distribute(layout, record, place, own)
        else:
            path = folder / f"{place.stem}{PUBLIC_SUFFIX}"
            if known is None:
                replace_certificate(own, path)  # in the place of one that is revoked; there is no other
            record.add([path] if path.exists() else [], own)
        (folder / REQUESTS_FOLDER / f"{own.owner.name}{PUBLIC_SUFFIX}").unlink(missing_ok=True)
        return material_of(own, read_folders([folder, folder / ENROLLED_FOLDER]))


def _known(layout: Layout, request: Certificate) -> Iterator[Certificate]:
    """Return the requested key as it was accepted already, by a run that was killed, or before."""
    for key in found_keys(layout):
        if key.certificate.public == request.public and _is_servers(layout, key):
            yield key.certificate


def _is_servers(layout: Layout, key: FoundKey) -> bool:
    return layout.server_folder in (key.path.parent, key.path.parent.parent)


def _require_unknown(layout: Layout, name: str, but: Certificate | None = None) -> None:
    for key in live_keys(layout, name):
        if but is None or key.public != but.public:
            raise ConfigurationError(
                f"{name} has a key already, {key.public.fingerprint}; revoke it first: certs-init revoke {name}"
            )


def _open_invitation(layout: Layout, path: Path) -> bool:
    """Return whether somebody can enrol by the invitation in a file."""
    if not path.exists():
        return False
    certificate = load_certificate(path)
    return not is_revoked(layout, certificate) and not certificate.validity.has_ended(time.time())
