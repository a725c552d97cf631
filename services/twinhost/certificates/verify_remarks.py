"""Remarks on a tree that is right: keys that are revoked, expire soon, or are pending."""

from collections.abc import Iterator
from itertools import chain

from twinhost.certificates.layout import SERVER, Layout, enrolment_arguments, to_replace_revoked, to_rotate
from twinhost.certificates.tree import (
    REQUESTS_FOLDER,
    found_keys,
    is_revoked,
    joined_folders,
    keys_in,
    own_pairs,
    replaced_folders,
)
from twinhost.commands import remove_command
from twinhost.secure_zmq.certificates import INVITES_FOLDER
from twinhost.secure_zmq.keys import Certificate, format_moment


def remarks_on(layout: Layout) -> list[str]:
    """Return a sentence for each remark."""
    return list(chain(_revoked(layout), _pending(layout), _exported(layout), _replaced(layout), _ending(layout)))


def _revoked(layout: Layout) -> Iterator[str]:
    for path, pair in own_pairs(layout):
        if is_revoked(layout, pair.certificate):
            new = to_replace_revoked(layout, pair.certificate.owner)
            yield f"{path} was revoked, and no host accepts it; for a new key: {new}"
    for key in found_keys(layout):
        if is_revoked(layout, key.certificate):
            yield f"{key.path} is a revoked key of {key.certificate.owner.name}, and authorises nobody"


def _pending(layout: Layout) -> Iterator[str]:
    folder = layout.server_folder
    if folder is None:
        return
    now = layout.clock.time()
    for key in keys_in(folder / INVITES_FOLDER):
        name, validity = key.certificate.owner.name, key.certificate.validity
        if not is_revoked(layout, key.certificate):  # it was not used
            end = None if validity.has_ended(now) else validity.not_after
            until = "expired" if end is None else f"is open until {format_moment(end)}"
            yield f"the invitation of {name} {until}; to withdraw it: {layout.command('reject', name)}"
    for key in keys_in(folder / REQUESTS_FOLDER):
        yield f"the request of {key.certificate.owner.name} is pending; see: {layout.command('pending')}"


def _exported(layout: Layout) -> Iterator[str]:
    theirs = {identity.folder for identity in layout.remote}
    for folder in joined_folders(layout):
        if folder.name in theirs:
            remove = remove_command(folder)
            yield f"{folder} holds the secret of another host; once it is there, remove it here: {remove}"


def _replaced(layout: Layout) -> Iterator[str]:
    for folder in replaced_folders(layout.root):
        remove = remove_command(folder)
        yield f"{folder} holds the keys that a restore replaced, secrets too; to remove them: {remove}"


def _ending(layout: Layout) -> Iterator[str]:
    """Yield a sentence for every key that expired, expires soon, or never expires."""
    now = layout.clock.time()
    keys: dict[bytes, Certificate] = {key.certificate.public.raw: key.certificate for key in found_keys(layout)}
    for key in keys.values():
        end = key.validity.not_after
        owner = f"{key.owner.name} on {key.owner.host}"
        if is_revoked(layout, key):
            continue
        if end is None:
            yield f"the key of {owner} ({key.public.fingerprint}) never expires; {_to_limit(layout, key)}"
            continue
        if not key.validity.ends_soon(now):
            continue
        if key.validity.has_ended(now):
            how, to_do = f"expired {format_moment(end)}, and is refused everywhere", _to_replace(layout, key)
        else:
            how = f"expires {format_moment(end)}"
            to_do = f"where its secret is, run: {to_rotate(key.owner.name, layout.root)}"
        yield f"the key of {owner} ({key.public.fingerprint}) {how}; {to_do}"


def _to_limit(layout: Layout, key: Certificate) -> str:
    """Return how to limit the validity of a key that never expires, as keys of older versions."""
    remote = next((one for one in layout.remote if one.owner == key.owner), None)
    if remote is not None:
        public = layout.command("public", remote.stem, piped=True)
        return f"to limit its validity: {public} | {layout.command('trust', '-', piped=True)}"
    return f"to rotate it to one that expires: {to_rotate(key.owner.name, layout.root)}"


def _to_replace(layout: Layout, key: Certificate) -> str:
    """Return how to replace an expired key."""
    name = key.owner.name
    if name == SERVER:
        return f"run: {to_rotate(key.owner.name, layout.root)}"
    revoke = layout.command("revoke", name)
    if layout.server_folder is not None and any(one.owner == key.owner for one in layout.local):
        return f"run: {revoke}, then: {layout.command('replace', name)}"
    invite = layout.command("invite", *enrolment_arguments(key.owner))
    join = layout.command("join", "--replace", "-", piped=True)
    return f"on mainpc, run: {revoke}, then: {invite}, and on {key.owner.host}: {join}"
