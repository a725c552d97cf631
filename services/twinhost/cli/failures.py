"""What went wrong, as a code for programs and a sentence for people."""

import re
from dataclasses import dataclass

from twinhost.secure_zmq.errors import RequestError, TwinhostError


@dataclass(frozen=True, slots=True)
class Failure:
    """A snake_case code and one sentence."""

    code: str
    sentence: str

    @classmethod
    def of(cls, error: TwinhostError) -> "Failure":
        """Return the failure that an error is: the wire's code, or the name of the error's type."""
        if isinstance(error, RequestError):
            return cls(error.code, str(error))
        return cls(re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower(), str(error))

    def about(self, subject: str) -> "Failure":
        """Return the same failure, its sentence naming whom it concerns."""
        return Failure(self.code, f"{subject}: {self.sentence}")

    def as_reply(self) -> dict[str, str]:
        """Return it in the shape that error replies have on the wire."""
        return {"status": "error", "code": self.code, "error": self.sentence}
