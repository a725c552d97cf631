"""Passages: how a text is divided, and what a search makes of the parts of a long one."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.search_bench import SearchBench, filled
from twinhost.unified_memory_reasoning.conversations.actions import MAX_CONTENT_BYTES as MOST_BYTES
from twinhost.unified_memory_reasoning.search.actions import MAX_CONTENT_BYTES
from twinhost.unified_memory_reasoning.search.passages import MOST, SIZE, passages_of, texts_of_passages

TEXTS = {
    "nothing": "",
    "as much as one has": "x" * SIZE,
    "one more": "x" * (SIZE + 1),
    "newlines": "\n" * MOST_BYTES,
    "a word at the end of newlines": "\n" * (MOST_BYTES - 7) + "gateway",
    "one word": "x" * MOST_BYTES,
    "one sentence": "word " * (MOST_BYTES // 5),
    "short sentences": "Yes. No! Why? " * (MOST_BYTES // 14),
    "marks": "." * MOST_BYTES,
    "sentences of 200 and 300": ("a" * 198 + ". " + "b" * 298 + ". ") * 131,
    "sentences of 100 and 250": ("a" * 98 + ". " + "b" * 248 + ". ") * 187,
    "NULs": "a.\0b \0" * (MOST_BYTES // 6),
    "NULs alone": "\0" * MOST_BYTES,
    "of other planes": "\U0001f600 \U00020000. " * (MOST_BYTES // 12),
    "control characters": "\x01\x1f\x7f\u2028\ufeff. " * (MOST_BYTES // 11),
    "many more than there are passages": ("x" * 250 + ". ") * 3 * MOST,
}
LETTERS = st.sampled_from(["a", "b ", ". ", ".", "!\0", "\0", "\n", "\r\n", "\u2026 ", "\U0001f600", "\u00e9"])


def require_division(text: str) -> None:
    """Fail unless the passages are in their order, cover the text, overlap by a sentence at most, and have an end."""
    passages = passages_of(text)
    assert 1 <= len(passages) <= MOST
    assert (passages[0].begins, passages[-1].ends) == (0, len(text))
    for before, after in pairwise(passages):
        assert before.begins < after.begins <= before.ends < after.ends
        assert before.ends - after.begins < SIZE // 2
    if text:
        assert all(passage.begins < passage.ends for passage in passages)
    longest = max(passage.ends - passage.begins for passage in passages[: MOST - 1])
    assert longest <= SIZE + SIZE // 2  # a short sentence, and the long one that follows it


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_passages_divide_a_text(text: str) -> None:
    require_division(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(LETTERS, max_size=60), st.integers(1, 40))
def test_passages_divide_any_text(parts: list[str], times: int) -> None:
    text = "".join(parts) * times
    require_division(text)
    assert json.loads(texts_of_passages(text)) == [
        text[begins:ends].replace("\0", " ") for begins, ends in passages_of(text)
    ]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_database_divides_a_text_alike(bench: SearchBench, text: str) -> None:
    """As the triggers do: by characters, whole, and in the same order."""
    expected = [text[begins:ends].replace("\0", " ") for begins, ends in passages_of(text)]
    found = bench.database.execute("SELECT key, value FROM json_each(texts_of_passages(?))", (text,)).fetchall()
    assert found == list(enumerate(expected))


bench = bench_of(filled)


def test_passages_end_with_sentences() -> None:
    """And a short last one is in the next passage too, which it introduces."""
    sentences = [f"This is sentence {number} of a text that says nothing else at all." for number in range(20)]
    text = " ".join(sentences)
    shown = [text[begins:ends].strip() for begins, ends in passages_of(text)]
    assert shown == [" ".join(sentences[first : first + 6]) for first in range(0, 20, 5)]


@pytest.mark.parametrize("kind", ["interaction", "memory"])
def test_a_long_text_is_found_by_what_one_passage_says(bench: SearchBench, kind: str) -> None:
    """Wherever it is, also beyond what a reply has of the content; the result has that passage, and above a weaker."""
    talk = "We talked of the weather, and of nothing else that matters. "
    begin = talk * (2 * MAX_CONTENT_BYTES // len(talk))
    text = f"{begin}The kumquat is ripe in the garden of Ana. {talk * 5}"
    found = bench.interaction(text) if kind == "interaction" else bench.memory("m", text)
    weaker = bench.interaction(f"a kumquat, and {talk * 6}")
    first, second = bench.ask(query="ripe kumquat")["results"]
    assert (first["id"], second["id"]) == (found, weaker)
    assert first["cut"]
    assert "The kumquat is ripe in the garden" in first["passage"]
    assert first["passage"] in text
    assert first["passage"] == first["passage"].strip()
    assert "passage" not in bench.ask(query="weather talk of the day")["results"][0]


def test_a_text_with_a_nul_has_the_passage_that_was_found(bench: SearchBench) -> None:
    """A NUL ends a sentence as a space does, so that the index and the text have the same passages."""
    bench.interaction("We talked of the weather.\0" * 40 + "The kumquat is ripe. " + "We talked of it. " * 40)
    (found,) = bench.ask(query="kumquat")["results"]
    assert "kumquat" in found["passage"]


def test_a_changed_passage_leaves_no_word_in_the_file(bench: SearchBench) -> None:
    """Nor does any passage of a deleted text; the index is sound after each step."""

    def held(part: bytes) -> bool:
        bench.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")
        blocks = bench.database.execute("SELECT block FROM recall_passages_data")
        return any(part in (block or b"") for (block,) in blocks)

    talk = "We talked of the weather, and of nothing else that matters. " * 20
    number = bench.interaction(f"{talk} the kumquat. {talk} the zebra. {talk}")
    bench.memory("m", f"{talk} the pumpkin. {talk}")
    rows = bench.rows("recall_passages_docsize")
    assert held(b"umquat")
    assert held(b"ebra")
    bench.database.execute("UPDATE interactions SET content = ? WHERE id = ?", (f"{talk} the zebra. {talk}", number))
    assert not held(b"umquat")
    assert held(b"ebra")
    assert bench.ids("zebra") == [number]
    bench.database.execute("DELETE FROM interactions WHERE id = ?", (number,))
    bench.database.execute("DELETE FROM memories")
    assert not held(b"ebra")
    assert not held(b"umpkin")
    assert rows > 20
    assert bench.rows("recall_passages_docsize") == 20
