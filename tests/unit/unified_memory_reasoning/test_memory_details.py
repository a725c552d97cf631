"""The optional fields of a memory are declared once, and everything that has them derives from there."""

from typing import Any

import msgspec
import pytest

from twinhost.moments import SYSTEM_CLOCK
from twinhost.unified_memory_reasoning.memories.details import DETAILS, Details, decode_details
from twinhost.unified_memory_reasoning.memories.messages import MemoryDocument, StoreMemory, SyncedMemory

TIME = "2026-05-01T08:00:00.000+00:00"
# What is sent, and what is then shown; of any other field, a time.
SENT: dict[str, Any] = {"key": " rent ", "supersedes": ["a", "b", "a"], "pinned": True}
SHOWN: dict[str, Any] = SENT | {"key": "rent", "supersedes": ["a", "b"]}
FIELDS = DETAILS.names
SENT_AS = {name: "pin" if name == "pinned" else name for name in FIELDS}


def test_requests_records_and_replies_have_each_field() -> None:
    assert set(FIELDS) <= set(SyncedMemory.__struct_fields__) & set(MemoryDocument.__annotations__)
    assert set(SENT_AS.values()) <= set(StoreMemory.__struct_fields__)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_keeps_its_value_from_request_to_reply(name: str) -> None:
    sent, shown = SENT.get(name, TIME), SHOWN.get(name, TIME)
    request = msgspec.convert({"action": "store_memory", "content": "x", SENT_AS[name]: sent}, StoreMemory)
    details = Details(**DETAILS.stored(request, SYSTEM_CLOCK))
    assert DETAILS.shown(details) == {name: shown}
    assert decode_details(msgspec.json.encode(details)) == details
    record = msgspec.convert({"id": "m", "content": "x", "last_accessed": TIME, name: shown}, SyncedMemory)
    assert DETAILS.synced(record, "$", SYSTEM_CLOCK, 300.0) == details


def test_fields_that_are_omitted_are_absent() -> None:
    request = msgspec.convert({"action": "store_memory", "content": "x"}, StoreMemory)
    assert DETAILS.stored(request, SYSTEM_CLOCK) == {}
    assert DETAILS.shown(Details()) == {}
    assert DETAILS.described({"content": "x"}) == []


def test_what_a_search_shows_is_named_in_words() -> None:
    details = Details(key="rent", valid_from=1.0, valid_until=2.0)
    assert sorted(DETAILS.shown(details, in_search=True)) == ["valid_from", "valid_until"]
    assert DETAILS.described({"valid_until": TIME, "key": "rent"}) == ["valid until 2026-05-01"]
