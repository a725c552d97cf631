"""Any message at all, both ways: whatever is asked is answered in form, and whatever is answered is read or refused."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, is_typeddict

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.schema.json_schema import Schema, closed, places, replaced
from tests.unit.schema.test_schema import ANYTHING, ASSEMBLE, HOST
from twinhost.agent.trust import TrustDifference, TrustDocument, fetch_document, read_document
from twinhost.certificates.bundle import _Texts, read_answer
from twinhost.cli import audit, keys, output, status, watch
from twinhost.cli.memory import command, importing, reads
from twinhost.cli.output import read
from twinhost.clients import event_order
from twinhost.schema import AGENTS, replies_of, schema_of
from twinhost.secure_zmq import errors
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    InternalError,
    MalformedRequest,
    RequestError,
    error_from_reply,
)
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.wire import decode_reply

EXAMPLES = 100  # of requests to each agent
CALLERS = [
    Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator"),
    Caller("SystemDigitalTwin", "mainpc", frozenset({"agent"}), "SHA256:of-sdt"),
    Caller("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent"}), "SHA256:of-umra"),
    Caller("stranger", "elsewhere", frozenset(), "SHA256:of-nobody"),
]
CODES = {error.code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, RequestError)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)
VALUES = JSON | st.sampled_from([value for value in ANYTHING if len(str(value)) < 30_000])
Asked = tuple[Assembled, Schema, Schema]
TYPED = ("twinhost.clients.system_replies", "twinhost.clients.memory_replies")
KINDS = [
    kind
    for module in (output, audit, keys, status, importing, command, reads, watch, event_order)
    for kind in vars(module).values()
    if is_typeddict(kind)
    or (isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ in (module.__name__, *TYPED))
]
NO_KEYS = TrustDocument("r", (), (), ())
READERS: dict[str, tuple[type, Callable[[dict[str, Any]], object]]] = {
    **{kind.__name__: (kind, lambda reply, kind=kind: read(reply, kind)) for kind in KINDS},  # type: ignore[misc]
    "TrustDocument": (TrustDocument, read_document),
    "TrustDifference": (TrustDifference, lambda reply: fetch_document(lambda **_: reply, NO_KEYS)),
    "the answer to confirm_key": (_Texts, read_answer),
}


def changed(data: st.DataObject, good: Any) -> Any:
    """Return a copy in which up to three places hold something else."""
    for _ in range(data.draw(st.integers(0, 3))):
        path = data.draw(st.sampled_from(list(places(good))))
        good = replaced(good, path, data.draw(VALUES))
    return good


@pytest.fixture(scope="module", params=sorted(AGENTS))
def agent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """One of both agents on its real store, and the schemas of what it may be asked and of nothing but its answers."""
    name = request.param
    migrations, assemble = ASSEMBLE[name]
    schema = Schema(json.loads(msgspec.json.encode(schema_of(name))))
    replies = Schema(closed(json.loads(msgspec.json.encode(replies_of(name)))))
    with ExitStack() as stack:
        environment = environment_of(tmp_path_factory.mktemp("agent"), HOST[name])
        yield stack.enter_context(Assembled(name, migrations, assemble, environment)), schema, replies


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(data=st.data())
def test_any_request_is_answered_in_form(agent: Asked, data: st.DataObject) -> None:
    """Of every type, good or not, by anybody: a reply of the documented form and code, and never `internal`."""
    assembled, schema, replies = agent
    mapping = schema.root["discriminator"]["mapping"]
    action = data.draw(st.sampled_from(sorted(mapping)))
    request = changed(data, schema.instance(schema.definition(mapping[action]), whole=data.draw(st.booleans())))
    caller = data.draw(st.sampled_from(CALLERS))
    for reply in assembled._dispatcher.answer([Inbound(msgspec.json.encode(request), caller)]):
        if not reply:
            assert assembled._dispatcher.take_deferred()  # which another thread answers
            continue
        answer = json.loads(reply)
        assert isinstance(answer, dict), request
        assert answer.get("code") != InternalError.code, request
        assert "code" not in answer or answer["code"] in CODES, answer
        assert replies.allows({action: answer}), (request, answer)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.thorough
def test_any_reply_is_read_or_refused(name: str, data: st.DataObject) -> None:
    """Every document that a client reads out of a reply: it comes as its type, or as the typed error."""
    kind, reader = READERS[name]
    schema = Schema(msgspec.json.schema(kind))
    reply = changed(data, schema.instance(schema.root, whole=data.draw(st.booleans())))
    if isinstance(reply, dict):
        with suppress(MalformedRequest, ConfigurationError):
            assert reader(reply) is not None


@given(st.binary(max_size=300) | JSON.map(msgspec.json.encode))
def test_any_bytes_are_a_reply_or_a_typed_error(content: bytes) -> None:
    with suppress(MalformedRequest):
        assert isinstance(decode_reply(content), dict)


@given(st.text(max_size=30), st.text(max_size=100))
def test_any_code_is_a_typed_error_that_keeps_it(code: str, sentence: str) -> None:
    error = error_from_reply(code, sentence)
    assert (error.code, str(error)) == (code, sentence)


def test_every_kind_of_reply_is_read(tmp_path: Path) -> None:
    """No document of a client is left out by a slip."""
    assert {
        "HealthDocument",
        "ListedPeers",
        "RegisteredAgents",
        "StoredPage",
        "PingReply",
        "AuditPage",
        "AuditHeads",
        "BackupDocument",
        "CallersEntries",
        "QuarantineList",
        "SearchResults",
    } <= READERS.keys()
