"""Which older keys newer ones may revoke, and when, in a file that outlasts a restart.

Whoever has stolen a key can propose, confirm, and use another one in its owner's name. So a newer key revokes an older
one at once only if that agreed and nobody uses it any more; else WAIT_S later, while health warns. The older key keeps
its place if it asks for that meanwhile, and an operator may revoke either at any time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.keys import DAY_S

_log = structlog.get_logger(__name__)

RETIREMENTS_FILE = "retirements.json"  # after the agent's name, in its state folder
WAIT_S = DAY_S
_A_ROTATION_S = 120.0  # that agreed; until then its owner may still use the older key
_Moment = Annotated[float, msgspec.Meta(ge=0, lt=253_402_300_800)]  # in seconds since the epoch, to the year 9999


class Retirement(msgspec.Struct, frozen=True):
    """Of an older key: the newer one, whether the older agreed, and when the newer asked for it, None if not yet."""

    newer: str
    agreed: bool = False
    asked: _Moment | None = None

    @property
    def due(self) -> float:
        """When it is due, whoever uses the older key then."""
        return float("inf") if self.asked is None else self.asked + WAIT_S

    def warning(self, owner: str) -> str:
        """Return the sentence that it will happen, to a key of that owner."""
        return (
            f"the key of {owner or 'an unknown owner'} will be revoked {iso_time(self.due)[:16]}Z, because a newer key "
            "of the same name asked for it"
        )


class Retirements:
    """The retirements by the older key's fingerprint; a method raises StoreUnavailable if the file can't be written."""

    def __init__(self, path: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        """Read the file; without a readable one no key is being retired, which takes no key from anybody."""
        self._path, self._clock = path, clock
        self._kept: dict[str, Retirement] = {}
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=dict[str, Retirement])
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.error("retirements_unreadable", path=str(path), reason=str(error), effect="every key stays")

    def agree(self, older: str, newer: str) -> None:
        """Let a newer key retire an older one, in whose name this is asked."""
        self._put(older, newer, agreed=True)

    def ask(self, older: str, newer: str) -> Retirement:
        """Have an older key retired once it is due; asking again does not change when."""
        return self._put(older, newer, asked=self._clock.time())

    def agreed(self, older: str, newer: str) -> bool:
        """Return whether an older key lets a newer one retire it."""
        known = self._kept.get(older)
        return known is not None and known.newer == newer and known.agreed

    def withdraw(self, older: str) -> bool:
        """Let an older key stay; return whether it was to be retired or had agreed."""
        if older not in self._kept:
            return False
        self._write({key: retirement for key, retirement in self._kept.items() if key != older})
        return True

    def asked(self) -> Iterator[tuple[str, Retirement]]:
        """Yield the retirements that were asked for, with the older key's fingerprint."""
        return ((older, retirement) for older, retirement in tuple(self._kept.items()) if retirement.asked is not None)

    def contested(self) -> Iterator[tuple[str, Retirement]]:
        """Yield those that were asked for and that no rotation explains: the older key did not agree, or goes on."""
        now = self._clock.time()
        for older, retirement in self.asked():
            if not (retirement.agreed and now < (retirement.asked or 0.0) + _A_ROTATION_S):
                yield older, retirement

    def _put(self, older: str, newer: str, *, agreed: bool = False, asked: float | None = None) -> Retirement:
        before = self._kept.get(older)
        if before is None or before.newer != newer:
            before = Retirement(newer)
        after = Retirement(newer, before.agreed or agreed, asked if before.asked is None else before.asked)
        if after != self._kept.get(older):
            self._write({**self._kept, older: after})
        return after

    def _write(self, kept: dict[str, Retirement]) -> None:
        try:
            replace_file(self._path, msgspec.json.encode(kept).decode())
        except OSError as error:
            raise StoreUnavailable(
                f"{self._path} can't be written ({error.strerror}); free space on the agent's volume, and repeat the "
                "request"
            ) from None
        self._kept = kept
