"""A machine without a path to mainpc: its public key goes there as a file, and what mainpc tells comes back as one."""

import os

from twinhost.certificates.bundle import TrustMaterial
from twinhost.certificates.generate import require_not_revoked
from twinhost.certificates.layout import Layout, described
from twinhost.certificates.names import require_newcomer
from twinhost.certificates.place import put_in_place
from twinhost.certificates.tree_lock import locked, make_host_folder
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.secure_zmq.key_writer import write_key_pair
from twinhost.secure_zmq.keys import Certificate, KeyOwner, KeyPair, fingerprint_of, load_key_pair


def request(layout: Layout, config: NetworkConfig, owner: KeyOwner) -> Certificate:
    """Return the public key that mainpc is to accept; the pair is made where it is missing.

    Raises:
        ConfigurationError: the configuration has another owner of that name, the secret that is there is another's,
            or is revoked.
    """
    place = require_newcomer(layout, config, owner)
    path = layout.secret_file(place)
    with locked(layout, folders=False):
        if not os.path.lexists(path):
            make_host_folder(path.parent, layout)
            write_key_pair(KeyPair.generate(owner, layout.new_validity()), path)
        certificate = load_key_pair(path).certificate
    if certificate.owner != owner:
        raise ConfigurationError(
            f"{path} is the key of {described(certificate.owner)}, not of {described(owner)}; ask for what it is"
        )
    require_not_revoked(layout, certificate, str(path))
    return certificate


def request_fingerprint(certificate: Certificate) -> str:
    """Return the fingerprint that two people compare: of name, host, roles, and key together.

    No name, host, or role can hold a line break or a space, so two requests never have the same text. The validity is
    not part of it, because mainpc ignores what a request says of it.
    """
    owner = certificate.owner
    lines = ["twinhost request", owner.name, owner.host, " ".join(sorted(owner.roles)), certificate.public.z85.decode()]
    return fingerprint_of("\n".join(lines).encode())


def take_in(layout: Layout, material: TrustMaterial, source: str) -> Certificate:
    """Put in place what mainpc answered to a request; return the server's key.

    Raises:
        ConfigurationError: the answer is for another key than the one that lies here.
    """
    place = layout.place_of(material.own.owner)
    path = layout.secret_file(place)
    if not os.path.lexists(path):
        raise KeyFileMissing(
            f"{source} is for {described(material.own.owner)}, whose secret is not here ({path}); "
            "give it to the machine that made the request"
        )
    with locked(layout, folders=False):
        return put_in_place(layout, place, load_key_pair(path), material)
