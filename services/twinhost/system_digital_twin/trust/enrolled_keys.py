"""The folder of keys that SystemDigitalTwin writes itself: of those who enrolled, or whose key was rotated."""

import contextlib
import os
from pathlib import Path

from twinhost.secure_zmq.certificates import NEXT_SUFFIX, REVOKED_FOLDER, VOUCHED_FOLDER
from twinhost.secure_zmq.errors import StoreUnavailable, certs_init_command
from twinhost.secure_zmq.key_writer import replace_certificate, sweep_drafts, write_revocation, write_vouching
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, PublicKey


class EnrolledKeys:
    """Public keys by name; every change is on disk when its method returns, and may be repeated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with contextlib.suppress(OSError):  # `fault` tells of a folder that can't be written
            for each in (folder, folder / REVOKED_FOLDER, folder / VOUCHED_FOLDER):
                sweep_drafts(each)

    @property
    def fault(self) -> str | None:
        """Why nobody can enrol at this moment."""
        writable = self._folder.is_dir() and os.access(self._folder, os.W_OK | os.X_OK)
        run = certs_init_command(self._folder, "verify")
        return None if writable else f"{self._folder} can't be written, so nobody can enrol; run: {run}"

    def put(self, certificate: Certificate, voucher: PublicKey) -> None:
        """Authorise a key as the current one of its owner, and record the invitation that it came by.

        Raises:
            StoreUnavailable: the folder can't be written.
        """
        self._vouch(certificate, voucher)
        self._replace(certificate, PUBLIC_SUFFIX)

    def put_next(self, certificate: Certificate, voucher: PublicKey) -> None:
        """Authorise a key beside the current one of its owner, which vouched for it, and record that."""
        self._vouch(certificate, voucher)
        self._replace(certificate, NEXT_SUFFIX)

    def promote(self, certificate: Certificate) -> None:
        """Make the next key of an owner the current one."""
        self._replace(certificate, PUBLIC_SUFFIX)
        try:
            (self._folder / f"{certificate.owner.name}{NEXT_SUFFIX}").unlink(missing_ok=True)
        except OSError as error:
            raise self._told(error) from None

    def revoke(self, certificate: Certificate) -> None:
        """Keep a key out for ever."""
        try:
            write_revocation(certificate, self._folder / REVOKED_FOLDER)
        except OSError as error:
            raise self._told(error) from None

    def _vouch(self, certificate: Certificate, voucher: PublicKey) -> None:
        try:
            write_vouching(certificate.public.fingerprint, voucher.fingerprint, self._folder / VOUCHED_FOLDER)
        except OSError as error:
            raise self._told(error) from None

    def _replace(self, certificate: Certificate, suffix: str) -> None:
        try:
            replace_certificate(certificate, self._folder / f"{certificate.owner.name}{suffix}")
        except OSError as error:
            raise self._told(error) from None

    def _told(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{error.filename or self._folder} can't be written ({error.strerror}); see the folder's mode and space"
        )
