"""The optional fields of a memory, declared once, in `Details`, and their table.

A field that a search filters by has a column of the table too.
"""

from typing import Annotated, Literal

import msgspec

from twinhost.secure_zmq.wire import NAME
from twinhost.unified_memory_reasoning.fields import MOMENT, PAST, Field, Fields, Kind

KEY = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]  # compared without case and surplus white space
TEXT = Kind(KEY, KEY, str, stripped=True)
FLAG = Kind(bool, bool, Literal[True])
_MEMORIES = Annotated[list[NAME], msgspec.Meta(max_length=64)]
MEMORIES = Kind(_MEMORIES, _MEMORIES, list[str], lambda value, *_: tuple(dict.fromkeys(value)), list)


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The optional part of a memory's body; times in seconds since the epoch. A new field is the last one.

    `occurred_at` is when it happened or was said. `valid_from` and `valid_until` are as its writer gave them: a later
    value of the same `key`, or a memory that `supersedes` it, may end its validity earlier (see `validity`).
    """

    occurred_at: Annotated[float | None, Field(PAST)] = None
    key: Annotated[str | None, Field(TEXT)] = None
    valid_from: Annotated[float | None, Field(MOMENT, in_search=True)] = None
    valid_until: Annotated[float | None, Field(MOMENT, in_search=True)] = None
    supersedes: Annotated[tuple[str, ...], Field(MEMORIES)] = ()
    review_at: Annotated[float | None, Field(MOMENT)] = None
    pinned: Annotated[bool, Field(FLAG, stored_as="pin")] = False


MIGRATION = """
CREATE TABLE memory_details (
    number INTEGER PRIMARY KEY REFERENCES memories (number) ON DELETE CASCADE,
    id TEXT NOT NULL UNIQUE,
    written_by TEXT NOT NULL,
    starts REAL NOT NULL,
    details TEXT NOT NULL,
    key TEXT GENERATED ALWAYS AS (details ->> 'key') VIRTUAL,
    occurred_at REAL GENERATED ALWAYS AS (details ->> 'occurred_at') VIRTUAL,
    valid_until REAL GENERATED ALWAYS AS (details ->> 'valid_until') VIRTUAL,
    review_at REAL GENERATED ALWAYS AS (details ->> 'review_at') VIRTUAL,
    pinned INTEGER GENERATED ALWAYS AS (coalesce(details ->> 'pinned', 0)) VIRTUAL
) STRICT;
CREATE INDEX memory_details_by_key ON memory_details (key, starts, id, written_by) WHERE key IS NOT NULL;
CREATE INDEX memory_details_by_end ON memory_details (valid_until) WHERE valid_until IS NOT NULL;
CREATE INDEX memory_details_by_review ON memory_details (review_at) WHERE review_at IS NOT NULL;
CREATE INDEX memory_details_by_pin ON memory_details (pinned, number);
CREATE TABLE memory_supersedes (
    superseded TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES memory_details (number) ON DELETE CASCADE,
    PRIMARY KEY (superseded, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_supersedes_by_memory ON memory_supersedes (number);
CREATE TABLE memory_claims (
    mark TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES memories (number) ON DELETE CASCADE,
    PRIMARY KEY (mark, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_claims_by_memory ON memory_claims (number);
DROP INDEX memories_by_number;
DROP INDEX memories_by_source;
CREATE INDEX memories_by_number ON memories (number, strength, forgotten, written_by, last_accessed);
CREATE INDEX memories_by_source ON memories (source, number, strength, forgotten, written_by, last_accessed);
"""
FOLDED_KEYS_MIGRATION = """
ALTER TABLE memory_details ADD COLUMN folded_key TEXT;
DROP INDEX memory_details_by_key;
CREATE INDEX memory_details_by_key ON memory_details (folded_key, starts, id, written_by)
WHERE folded_key IS NOT NULL;
"""  # without a value, which SQL can't compute: see `Validity.fold_keys`
# What a value ends of another writer: nothing; what it did before there was such a rule, until that is restored; or
# everything, as an operator's.
ENDS_OWN, ENDS_UNTIL_RESTORED, ENDS_ALL = 0, 1, 2
OWNERS_MIGRATION = """
ALTER TABLE memory_details ADD COLUMN ends INTEGER NOT NULL DEFAULT 1;
CREATE INDEX memory_details_by_key_and_writer ON memory_details (folded_key, written_by, starts, id)
WHERE folded_key IS NOT NULL;
CREATE INDEX memory_details_that_end ON memory_details (folded_key, starts, id)
WHERE folded_key IS NOT NULL AND ends > 0;
CREATE TABLE memory_restored (number INTEGER PRIMARY KEY REFERENCES memories (number) ON DELETE CASCADE) STRICT;
"""
DETAILS = Fields(Details)
NONE = DETAILS.none
decode_details = msgspec.json.Decoder(Details).decode  # as they are stored
