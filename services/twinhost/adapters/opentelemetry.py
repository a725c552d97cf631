"""Spans for calls, by OpenTelemetry's conventions for RPC and for memory of generative AI.

    from twinhost.adapters.opentelemetry import instrument

    instrument()

From then on every call of every client in this process has a span of the kind CLIENT, and its request carries the
`traceparent` of that span: an agent writes the trace's id into its log lines about the request, and passes the field on
with a request that it forwards. A span has no text of a request or a reply, since a memory may be confidential.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from twinhost.adapters import missing_extra
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import RequestError
from twinhost.version import VERSION

try:
    from opentelemetry.trace import (
        Span,
        SpanKind,
        Status,
        StatusCode,
        Tracer,
        TracerProvider,
        get_tracer,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise missing_extra("opentelemetry", "opentelemetry-api") from None

MEMORY_OPERATIONS: Mapping[str, str] = {  # `gen_ai.operation.name`, by action
    "add_interaction": "create_memory",
    "clear_context": "delete_memory",
    "delete_interactions": "delete_memory",
    "delete_memory": "delete_memory",
    "get_context": "search_memory",
    "get_interactions": "search_memory",
    "get_memory": "search_memory",
    "memory_history": "search_memory",
    "query_memory": "search_memory",
    "reinforce_memory": "update_memory",
    "search_memory": "search_memory",
    "store_memory": "upsert_memory",
}
_SYSTEM = "twinhost"
_STORE = "UnifiedMemoryReasoningAgent"
_TRACEPARENT = "traceparent"
_LISTS = ("results", "memories", "interactions")  # of a reply: the records that were found
_propagator = TraceContextTextMapPropagator()
_originals: list[tuple[type, str, Any]] = []


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Make a span for each call from now on, also of clients that exist already; a second time replaces the first.

    Args:
        tracer_provider: where the spans go; the global one by default.
    """
    uninstrument()
    tracer = get_tracer(_SYSTEM, VERSION, tracer_provider)
    wrappers: tuple[tuple[type, str, Callable[[Tracer, Any], Any]], ...] = (
        (Client, "call", _call),
        (Client, "map", _map),
        (AsyncClient, "call", _async_call),
    )
    for kind, name, wrapper in wrappers:
        original = vars(kind)[name]
        _originals.append((kind, name, original))
        setattr(kind, name, wraps(original)(wrapper(tracer, original)))


def uninstrument() -> None:
    """Make no spans any more."""
    while _originals:
        setattr(*_originals.pop())


def _call(tracer: Tracer, original: Any) -> Any:
    def call(client: Client, action: str, /, **fields: Any) -> Any:
        with _calling(tracer, client, action, fields) as (span, traced):
            reply = original(client, action, **traced)
            _note(span, reply)
            return reply

    return call


def _async_call(tracer: Tracer, original: Any) -> Any:
    async def call(client: AsyncClient, action: str, /, **fields: Any) -> Any:
        with _calling(tracer, client, action, fields) as (span, traced):
            reply = await original(client, action, **traced)
            _note(span, reply)
            return reply

    return call


def _map(tracer: Tracer, original: Any) -> Any:
    """Wrap `map`: a span lasts from when a request is read to when its reply is taken."""

    def map_(client: Client, requests: Iterable[tuple[str, Mapping[str, Any]]], **options: Any) -> Iterator[Any]:
        open_spans: deque[Span] = deque()

        def traced() -> Iterator[tuple[str, Mapping[str, Any]]]:
            for action, fields in requests:
                span = tracer.start_span(**_start(client, action, fields))
                open_spans.append(span)
                yield action, {**fields, **_carried(span)}

        return _ending(original(client, traced(), **options), open_spans)

    return map_


def _ending(results: Iterator[Any], open_spans: "deque[Span]") -> Iterator[Any]:
    """Yield results, and end the span of each."""
    try:
        for result in results:
            span = open_spans.popleft()
            if isinstance(result, Exception):
                _fail(span, result)
            else:
                _note(span, result)
            span.end()
            yield result
    except Exception as error:
        if open_spans:
            _fail(open_spans[0], error)
        raise
    finally:
        for span in open_spans:
            span.end()


@contextmanager
def _calling(
    tracer: Tracer, client: Client | AsyncClient, action: str, fields: Mapping[str, Any]
) -> Iterator[tuple[Span, dict[str, Any]]]:
    """Yield the span of a call, which is the current one meanwhile, and the fields with its `traceparent`."""
    start = _start(client, action, fields)
    with tracer.start_as_current_span(**start, record_exception=False, set_status_on_exception=False) as span:
        try:
            yield span, {**fields, **_carried(span)}
        except Exception as error:
            _fail(span, error)
            raise


def _start(client: Client | AsyncClient, action: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a span's name, kind, and attributes, and its parent where the caller gave a `traceparent` of its own."""
    server, operation = urlsplit(client.address), MEMORY_OPERATIONS.get(action)
    service = "" if type(client) in (Client, AsyncClient) else f"{type(client).__name__.removeprefix('Async')}/"
    attributes: dict[str, Any] = {
        "rpc.system.name": _SYSTEM,
        "rpc.method": f"{service}{action}",
        "server.address": server.hostname or client.address,
        **({} if server.port is None else {"server.port": server.port}),
    }
    if operation is not None:
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _SYSTEM,
            "gen_ai.memory.store.id": _STORE,
        }
        if session_id := fields.get("session_id"):
            attributes["gen_ai.conversation.id"] = session_id
        if record_id := fields.get("memory_id") or fields.get("id"):
            attributes["gen_ai.memory.record.id"] = record_id
    given = fields.get(_TRACEPARENT)
    return {
        "name": operation or attributes["rpc.method"],
        "kind": SpanKind.CLIENT,
        "attributes": attributes,
        "context": None if given is None else _propagator.extract({_TRACEPARENT: given}),
    }


def _carried(span: Span) -> dict[str, str]:
    """Return the field by which a request carries a span; nothing if there is no trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, set_span_in_context(span))
    return {name: value for name, value in carrier.items() if name == _TRACEPARENT}


def _note(span: Span, reply: Mapping[str, Any]) -> None:
    """Add what a reply says of the memories to the span of a memory operation."""
    if not span.is_recording():
        return
    if isinstance(reply.get("memory_id"), str):
        span.set_attribute("gen_ai.memory.record.id", reply["memory_id"])
    for name in _LISTS:
        if isinstance(reply.get(name), list):
            span.set_attribute("gen_ai.memory.record.count", len(reply[name]))


def _fail(span: Span, error: Exception) -> None:
    """Mark a span as failed; the kind of error is the code of the reply, or the name of the exception."""
    kind = error.code if isinstance(error, RequestError) else type(error).__name__
    span.set_attribute("error.type", kind)
    if isinstance(error, RequestError):
        span.set_attribute("rpc.response.status_code", kind)
    span.set_status(Status(StatusCode.ERROR, str(error)))
