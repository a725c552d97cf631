"""The tokens of a text: the estimate beside public vocabularies, exact cuts, and a tokenizer's file."""

import json
import random
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.benchmarks.recall_set import load
from tests.unit.agent.assembled import Assembled, environment_of
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, NAME, assemble
from twinhost.unified_memory_reasoning.conversations import tokens
from twinhost.unified_memory_reasoning.conversations.tokens import Estimate, Tokens, tokens_by

TEXTS = st.text() | st.text(alphabet="abAB1 _.,\n\r\t\u2028\u00e9\u0301\u4e2d\u200b")
ESTIMATE = Estimate()
CHINESE = "我们决定下周三把服务器搬到新的机房，请提醒我提前备份数据库。明天早上九点去医院复查，别忘了带上次的化验单。"
JAPANESE = "来週の水曜日にサーバーを新しいデータセンターへ移動することに決めました。コーヒーを一杯ください。"
KOREAN = "다음 주 수요일에 서버를 새 데이터 센터로 옮기기로 결정했습니다. 미리 데이터베이스를 백업해 주세요."


def corpus(name: str) -> list[str]:
    """Return texts of one kind."""
    chance = random.Random(7)
    if name in ("en", "fil"):
        return [
            turn.text for session in load().sessions if session.session_id.startswith(name) for turn in session.turns
        ]
    if name == "code":
        lines = Path(tokens.__file__).read_text("utf-8").splitlines() + Path(__file__).read_text("utf-8").splitlines()
        return ["\n".join(lines[place : place + 8]) for place in range(0, len(lines), 8)]
    if name == "hex":
        hexes = [chance.randbytes(size).hex() for size in range(8, 65)]
        return [*hexes, *map(str.upper, hexes), *(str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(50))]
    return [text[at : at + 20] for text in (CHINESE, JAPANESE, KOREAN) for at in range(0, len(text) - 20, 5)]


@pytest.mark.parametrize(
    ("name", "most"),
    [("en", 1.65), ("fil", 1.6), ("code", 2.5), ("hex", 1.9), ("cjk", 4.5)],
    ids=str,
)
@pytest.mark.parametrize("vocabulary", ["cl100k_base", "o200k_base"])
def test_the_estimate_is_an_upper_bound(name: str, most: float, vocabulary: str) -> None:
    """For every single line of a context, by two public tokenizers; and not so high that a budget is wasted."""
    import bpe_openai  # takes half a second, in each process that collects this file

    encode = bpe_openai.get_encoding(vocabulary).encode
    lines = [f"[Nora]: {text}" for text in corpus(name)]
    counted = [(ESTIMATE.count(line), len(encode(line))) for line in lines]
    assert [pair for pair in counted if pair[0] < pair[1]] == []
    assert sum(estimate for estimate, _ in counted) < most * sum(real for _, real in counted)


@pytest.mark.parametrize("name", ["en", "fil", "code", "cjk"])
def test_the_estimate_holds_for_one_token_for_each_digit(name: str) -> None:
    """As vocabularies of local models have it; by texts of the length of a small context."""
    import bpe_openai

    encode = bpe_openai.get_encoding("voyage3_base").encode
    texts = corpus(name)
    for place in range(0, len(texts), 5):
        text = "\n".join(texts[place : place + 5])
        assert ESTIMATE.count(text) >= len(encode(text)), text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("the The THE", 3),
        ("ilog", 2),
        ("kalapati", 4),
        ("camelCase", 4),
        ("HTTP", 3),
        ("a.b", 3),
        ("snake_case", 5),
        ("on 12", 4),
        ("v2", 2),
        ("2026-03-02", 10),
        ("a  b", 4),
        ("a\n    b\t", 8),
        ("\u4e2d\u6587", 6),
        ("caf\u00e9", 4),
    ],
)
def test_the_count_is_as_stated(text: str, count: int) -> None:
    """By the rule of the module."""
    assert ESTIMATE.count(text) == count


@given(TEXTS, st.integers(0, 40))
def test_a_beginning_fits(text: str, most: int) -> None:
    """It is one, has no more tokens than allowed, and nothing is cut without need."""
    begun = ESTIMATE.beginning(text, most)
    assert text.startswith(begun)
    assert ESTIMATE.count(begun) <= most
    assert begun == text or ESTIMATE.count(text) > most


@given(TEXTS, TEXTS)
def test_lines_have_the_tokens_of_each(one: str, other: str) -> None:
    """So that a text is counted line by line."""
    assert ESTIMATE.count(f"{one}\n{other}") == ESTIMATE.count(one) + 1 + ESTIMATE.count(other)


@pytest.mark.parametrize("text", ["aA", "a", "A", " ", "<", "1a", "\u4e2d"])
def test_no_text_takes_long_to_count(text: str) -> None:
    """64 KiB of what a regular expression could read again and again."""
    started = time.thread_time()
    ESTIMATE.count(text * 65_536)
    assert time.thread_time() - started < 1


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer trained on the written set, which truncates and pads as a model's own may."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus("en"), trainers.BpeTrainer(vocab_size=2_000, initial_alphabet=alphabet))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=100)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_a_file_counts_the_whole_text(file: Path) -> None:
    """Without the truncation and the padding that it states for a model."""
    library = Tokenizer.from_file(str(file))
    library.no_truncation()
    library.no_padding()
    counter = tokens_by(file)
    for text in ("", *corpus("en")[:50], CHINESE, "\U0001f600 x"):
        assert counter.count(text) == len(library.encode(text).ids)
        cut = [counter.beginning(text, most) for most in range(12)]
        assert all(text.startswith(each) for each in cut)
        assert all(counter.count(each) <= most for most, each in enumerate(cut))
        assert cut == sorted(cut, key=len)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"{}", json.dumps({"model": {"type": "x"}}).encode()])
def test_a_wrong_tokenizer_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """One that is missing, too; with its path, and what to do."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"can't be read as a tokenizer\.json: ") as refused:
        tokens_by(path)
    assert str(path) in str(refused.value)


def test_a_missing_library_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the command that installs it; without a file it isn't needed."""
    missing: Any = None
    monkeypatch.setitem(sys.modules, "tokenizers", missing)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[tokenizer\]'"):
        tokens_by(file)
    counter: Tokens = tokens_by(None)
    assert counter.count("x") == 1


def test_an_agent_does_not_start_without_its_tokenizer(tmp_path: Path) -> None:
    """Instead of estimating what was to be counted."""
    config = yaml.safe_load(DEFAULT_PATH.read_text("utf-8"))
    config["recall"]["tokenizer"] = "missing.json"
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    environment = {**environment_of(tmp_path, "pc2"), "NETWORK_CONFIG_PATH": str(path)}
    with pytest.raises(
        ConfigurationError, match=f"recall.tokenizer names {tmp_path}/missing.json, which can't be read"
    ):
        Assembled(NAME, MIGRATIONS, assemble, environment)
