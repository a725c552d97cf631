"""`search_memory` on the wire: its fields, its bounds, its filters, and queries that look like something else."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import MAX_REPLY_BYTES, bench_of
from tests.unit.unified_memory_reasoning.search_bench import SearchBench, filled
from twinhost.unified_memory_reasoning.search.actions import MAX_CONTENT_BYTES, MAX_QUERY_BYTES

bench = bench_of(filled)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchBench]:
    """One bench for many searches, which change nothing."""
    with SearchBench(tmp_path_factory.mktemp("kept") / "db") as bench:
        bench.fill(20)
        bench.interaction("the gateway is open", session_id="s-1", speaker="Ana")
        bench.interaction("the gateway is shut", session_id="s-2", speaker="Ana")
        bench.interaction("the gateway is gone", session_id="s-2", speaker="Ben")
        bench.memory("m", "the gateway is a door")
        yield bench


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "missing required field `query`"),
        ({"query": ""}, "at `$.query`"),
        ({"query": None}, "Expected `str`, got `null` - at `$.query`"),
        ({"query": 7}, "Expected `str`, got `int` - at `$.query`"),
        ({"query": ["a"]}, "at `$.query`"),
        ({"query": "x" * 4_097}, "at `$.query`"),
        ({"query": "é" * 2_049}, "at most 4096 bytes, got 4098 - at `$.query`"),
        ({"query": "x " * 5_000}, "at `$.query`"),
        ({"query": "a", "session_id": ""}, "at `$.session_id`"),
        ({"query": "a", "session_id": 1}, "at `$.session_id`"),
        ({"query": "a", "session_id": "x" * 257}, "at `$.session_id`"),
        ({"query": "a", "speaker": ""}, "at `$.speaker`"),
        ({"query": "a", "speaker": {}}, "at `$.speaker`"),
        ({"query": "a", "limit": 0}, "at `$.limit`"),
        ({"query": "a", "limit": 101}, "at `$.limit`"),
        ({"query": "a", "limit": 1.5}, "at `$.limit`"),
        ({"query": "a", "limit": "10"}, "at `$.limit`"),
        ({"query": "a", "limit": None}, "at `$.limit`"),
    ],
)
def test_a_wrong_field_is_named(kept: SearchBench, fields: dict[str, Any], sentence: str) -> None:
    reply = kept.ask(**fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]


def test_a_speaker_is_found_in_any_case(bench: SearchBench) -> None:
    """Also by the turn of somebody else, a name that came after a search, and one beyond ASCII; by no other name."""
    bench.interaction("the gateway is gone", speaker="Ben")
    first = bench.interaction("the gateway is open", speaker="Ana")
    assert bench.ids("gateway", speaker="ana") == bench.ids("gateway", speaker="ANA") == [first]
    asked = bench.interaction("where is the ferry?", session_id="f", speaker="ANA")
    answer = bench.interaction("pier 3", session_id="f", speaker="Be\u00f1ing Cruz")
    assert bench.ids("ferry", speaker="ana") == [asked]
    assert bench.ids("ferry", speaker="BE\u00d1ING  cruz") == [answer]
    assert bench.ids("ferry", speaker="Be\u00f1ing") == []


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, {"open", "shut", "gone", "door"}),
        ({"session_id": None, "speaker": None}, {"open", "shut", "gone", "door"}),
        ({"session_id": "s-2"}, {"shut", "gone"}),
        ({"speaker": "Ana"}, {"open", "shut"}),
        ({"session_id": "s-2", "speaker": "Ana"}, {"shut"}),
        ({"session_id": "S-2"}, set()),
        ({"session_id": "s-2 OR 1", "speaker": '" OR scope:s'}, set()),
    ],
)
def test_filters_name_one_session_and_one_speaker(kept: SearchBench, fields: dict[str, Any], found: set[str]) -> None:
    """As they are written, and memories have neither."""
    reply = kept.ask(query="gateway", **fields)
    assert {result["content"].split()[-1] for result in reply["results"]} == found


def test_a_filter_comes_before_the_candidates_are_chosen(bench: SearchBench) -> None:
    """What is elsewhere takes no place, however many there are and however well they fit."""
    wanted = bench.interaction("somebody spoke of a gateway", session_id="one", speaker="Ana")
    bench.fill(300, "gateway", session_id="another", speaker="Ben")
    assert bench.ids("gateway", session_id="one") == bench.ids("gateway", speaker="Ana") == [wanted]


def test_a_keyword_limits_a_search_to_the_memories_that_have_it(bench: SearchBench) -> None:
    """In any case, before the candidates are chosen, and together with the times."""
    wanted = bench.memory("wanted", "somebody spoke of a gateway", keywords=("Ana", "x"), age_days=9)
    bench.memory("other", "a gateway", keywords=("Ana and others", "it's"))
    bench.fill(300, "gateway", session_id="another")
    assert bench.ids("gateway", keyword="ana") == bench.ids("gateway", keyword="ANA") == [wanted]
    assert bench.ids("gateway", keyword="it's") == ["other"]
    assert bench.ids("gateway", keyword="an") == bench.ids("gateway", keyword="ana", since=time.time() - 86_400) == []
    assert bench.ids("gateway", keyword="ana", session_id="another") == []


def test_ten_are_answered_unless_another_number_is_asked_for(bench: SearchBench) -> None:
    bench.fill(12, "gateway")
    reply = bench.ask(query="gateway")
    assert (len(reply["results"]), reply["more"]) == (10, True)
    reply = bench.ask(query="gateway", limit=12)
    assert (len(reply["results"]), reply["more"]) == (12, False)


def test_results_are_ranked_and_returned_in_full(bench: SearchBench) -> None:
    bench.interaction("gateway open", importance=0.7)
    bench.memory("m", "a gateway to somewhere else entirely")
    reply = bench.ask(query="Gateway, open?")
    assert {**reply, "results": len(reply["results"])} == {
        "status": "ok",
        "results": 2,
        "more": False,
        "words": ["gateway", "open"],
        "words_left_out": [],
        "channels": ["words"],
    }
    first, second = reply["results"]
    names = (
        "id kind session_id speaker content content_bytes cut importance strength timestamp score similarity written_by"
    )
    assert set(first) == set(second) == set(names.split())
    assert 1 >= first["score"] > second["score"] > 0
    assert first["timestamp"].endswith("+00:00")


HOSTILE = [
    '"',
    '""',
    'gateway"',
    'gateway" OR "talk',
    "gateway AND",
    "NOT gateway",
    "NEAR(gateway open, 2)",
    "words : gateway",
    "{words scope} : gateway",
    "gateway*",
    "^gateway",
    "-gateway",
    "gateway + open",
    "(gateway",
    "gateway)",
    "'; DROP TABLE interactions; --",
    "gateway\x00open",
    "\x00",
    "\ufeff",
    "?!...",
    "_",
    "%",
    "日本語",
    "٣",
    "e\u0301",
    "\U0001f600",
    "a" * 4_096,
    "a b " * 1_024,
    " ".join(f"w{number}" for number in range(800)),
    "AND OR NOT NEAR",
]


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: repr(query[:24]))
def test_a_query_is_words_and_never_syntax(kept: SearchBench, query: str) -> None:
    """It is answered, and finds the gateway if and only if it names it."""
    reply = kept.ask(query=query)
    assert reply["status"] == "ok"
    named = "gateway" in query or "open" in query
    assert bool(reply["results"]) == (named or "talk" in query)
    assert len(kept.ids("gateway")) == 4


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
        st.lists(
            st.sampled_from(
                [
                    '"',
                    "(",
                    ")",
                    "*",
                    "^",
                    ":",
                    "words",
                    "scope",
                    "AND",
                    "OR",
                    "NOT",
                    "NEAR",
                    "gateway",
                    "+",
                    "-",
                    "{",
                    "}",
                ]
            ),
            min_size=1,
            max_size=40,
        ).map(" ".join),
    )
)
def test_any_query_is_answered(kept: SearchBench, query: str) -> None:
    reply = kept.ask(query=query)
    assert reply["status"] == "ok", reply
    if "gateway" in query.lower().split():
        assert len(reply["results"]) == 4


ODD = [
    "\0",
    '"',
    '""',
    "'",
    "(",
    "*",
    "^",
    ":",
    "-",
    "AND ",
    " OR ",
    " NOT ",
    "NEAR(",
    "\u0345",
    "\u0130",
    "\ufdfa",
    "\u00b2",
]
ODD += [
    "\U000e0041",
    "\U0001f600",
    "\u0300",
    "\u1e9e",
    "_",
    "%",
    "gateway ",
    "2026-02-31",
    "last ",
    "999 days ago",
    "who am i",
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"])), min_size=1),
    st.integers(1, 4096),
)
def test_any_query_of_full_length_is_answered(kept: SearchBench, parts: list[str], times: int) -> None:
    """And what it finds has scores in their bounds, in their order."""
    query = ("".join(parts) * times).encode()[:MAX_QUERY_BYTES].decode(errors="ignore")
    reply = kept.ask(query=query)
    assert reply["status"] == "ok", reply
    scores = [result["score"] for result in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_name_is_a_filter_of_its_own(kept: SearchBench, name: str) -> None:
    """A session of any name is found by that name and by no other; likewise a writer who is hidden."""
    kept.database.execute("BEGIN")
    try:
        number = kept.interaction("gateway", session_id=name, speaker=name, written_by=name)
        assert kept.ids("gateway", session_id=name, speaker=name) == [number]
        assert kept.ids("gateway", session_id=f"{name}x") == []
        kept.quarantine(name)
        assert kept.ids("gateway", session_id=name) == []
    finally:
        kept.database.execute("ROLLBACK")


def test_stop_words_count_where_there_is_nothing_else(bench: SearchBench) -> None:
    """English and Filipino ones, with and without an accent; the reply says which were left out."""
    number = bench.interaction("to be or not to be, at hindi na")
    reply = bench.ask(query="Where is the gateway at saan ang pintuan?")
    assert reply["words_left_out"] == ["where", "is", "the", "gateway", "at", "saan", "ang", "pintuan"]
    assert reply["results"] == []
    assert bench.ids("to be or not to be") == bench.ids("hindi na") == [number]


def test_a_long_content_is_cut_and_the_reply_says_so(bench: SearchBench) -> None:
    """At a whole character; its length is beside it."""
    content = "gateway " + "é" * MAX_CONTENT_BYTES
    bench.interaction(content)
    bench.interaction("gateway \x00 open")
    found = {result["content_bytes"]: result for result in bench.ask(query="gateway")["results"]}
    cut, whole = found[len(content.encode())], found[14]
    assert cut["cut"]
    assert content.startswith(cut["content"])
    assert MAX_CONTENT_BYTES - 1 <= len(cut["content"].encode()) <= MAX_CONTENT_BYTES
    assert (whole["content"], whole["cut"]) == ("gateway \x00 open", False)


def test_a_reply_never_outgrows_its_bound(bench: SearchBench) -> None:
    """Of many long results, those that fit are answered, one at least; `more` says that there are others."""
    for _ in range(40):
        bench.interaction("gateway " + "\x01" * MAX_CONTENT_BYTES, session_id="\x02" * 256, speaker="\x03" * 256)
    reply = bench.ask(query="gateway", limit=100)
    assert 1 <= len(reply["results"]) < 40
    assert reply["more"]
    bench.configure(max_reply_bytes=16_384)
    assert len(bench.ask(query="gateway", limit=100)["results"]) == 1
    assert MAX_REPLY_BYTES > 16_384


def test_a_store_that_fails_is_said(bench: SearchBench) -> None:
    bench.database.execute("DROP TABLE recall_passages")
    assert bench.ask(query="gateway")["code"] == "store_unavailable"
