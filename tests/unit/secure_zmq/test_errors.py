"""The error tree and the codes on the wire."""

import json

import pytest

from twinhost.secure_zmq import errors
from twinhost.secure_zmq.errors import ConfigurationError, RequestError, TwinhostError, error_from_reply
from twinhost.secure_zmq.framing.exchange import successful
from twinhost.secure_zmq.wire import encode_error


def every_error() -> list[type[TwinhostError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TwinhostError)]


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    """The drawing at the top names every error class, and no other."""
    drawn = {word.strip("│├└─ ,") for word in (errors.__doc__ or "").split() if word[:1].isupper()}
    assert {kind.__name__ for kind in every_error()} <= drawn


def test_a_code_leads_back_to_its_error() -> None:
    """What the server raised is what the client raises; a lost transaction is an unavailable store to it."""
    for kind in every_error():
        if issubclass(kind, RequestError) and kind not in (RequestError, errors.TransactionLost):
            raised = error_from_reply(kind.code, "why")
            assert type(raised) is kind
            assert str(raised) == "why"
    assert type(error_from_reply(errors.TransactionLost.code, "why")) is errors.StoreUnavailable


def test_a_conflict_carries_the_current_revision() -> None:
    """From the server's reply to the client's exception; without a valid revision it is a conflict with None."""
    reply = json.loads(encode_error(errors.Conflict("why", 7), "r1", ("error", "reason")))
    assert reply == {
        "status": "error", "code": "conflict", "revision": 7, "error": "why", "reason": "why", "request_id": "r1"
    }  # fmt: skip
    with pytest.raises(errors.Conflict, match="why") as raised:
        successful(reply)
    assert raised.value.revision == 7
    for wrong in (None, "7", True, 1.5):
        error = error_from_reply("conflict", "why", {"revision": wrong})
        assert isinstance(error, errors.Conflict)
        assert error.revision is None


def test_no_two_errors_share_a_code() -> None:
    """A program can distinguish the errors by their codes."""
    codes = [kind.code for kind in every_error() if issubclass(kind, RequestError) and "code" in vars(kind)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("code", ["", "newer_than_this_client", "error"])
def test_an_unknown_code_is_still_a_request_error(code: str) -> None:
    """A newer server's error is refused like any other."""
    assert type(error_from_reply(code, "why")) is RequestError


def test_a_configuration_error_has_the_exit_status_of_sysexits() -> None:
    """78 is EX_CONFIG."""
    assert ConfigurationError.EXIT_STATUS == 78
