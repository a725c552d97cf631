"""A key that was revoked stays so, also where an older backup takes the place of the list that says it."""

import shutil

from twinhost.archive.key_files import received_tree
from twinhost.archive.places import Places
from twinhost.certificates.layout import SERVER
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER
from twinhost.secure_zmq.key_folders import REVOKED_FOLDER, read_folders
from twinhost.secure_zmq.key_writer import revoked_file_name
from twinhost.secure_zmq.keys import load_key_pair


def carry_revocations(places: Places) -> tuple[str, ...]:
    """Add to the received keys what is revoked on this machine and not in the backup; return those fingerprints.

    But for SystemDigitalTwin's own key: where it was rotated since, the backup's is what mainpc has to serve with.
    """
    received = received_tree(places.layout, places.received_keys)
    place = received.identity_of(SERVER)
    present, target = places.layout.server_folder, received.server_folder
    if place is None or present is None or target is None:
        return ()
    own = revoked_file_name(load_key_pair(received.secret_file(place)).public.fingerprint)
    folders = [target, target / ENROLLED_FOLDER]
    before = read_folders(folders).revoked
    for inner in (REVOKED_FOLDER, f"{ENROLLED_FOLDER}/{REVOKED_FOLDER}"):
        if (present / inner).is_symlink():  # the agent can write there, and this process sees every key
            continue
        for path in sorted((present / inner).glob("*.key")):
            copy = target / inner / path.name
            if path.name != own and path.is_file() and not path.is_symlink() and not copy.exists():
                shutil.copyfile(path, copy)
                copy.chmod(0o644)
    return tuple(sorted(read_folders(folders).revoked - before))
