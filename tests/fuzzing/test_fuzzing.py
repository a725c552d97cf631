"""The short run of `make fuzz`; and that it would see a crash, a hang, and growth."""

from pathlib import Path

import pytest

from tests.fuzzing import account
from tests.fuzzing.__main__ import main
from tests.fuzzing.account import Account
from tests.fuzzing.decoders import keys_corpus, take_key, take_request
from tests.fuzzing.mutation import Mutator


def test_ten_thousand_inputs(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the decoders and of the port: no crash, no hang, no growth; seed, counts, and hashes are reported."""
    monkeypatch.setattr("sys.argv", ["fuzz", "--inputs", "10000"])
    status = main()
    output = capfd.readouterr()
    print(output.out)
    assert status == 0, output.err
    first, *targets, last = output.out.splitlines()
    assert first.startswith("seed ")
    assert last.startswith("10,000 inputs in ")
    assert all("corpus " in line and "inputs " in line for line in targets)
    assert [line.partition(":")[0] for line in targets] == ["request decoder", "key loader", "raw port"]


def test_a_seed_makes_the_same_inputs_again() -> None:
    corpus = keys_corpus()
    one, other, third = Mutator(1, corpus), Mutator(1, corpus), Mutator(2, corpus)
    first = [one.next() for _ in range(200)]
    assert first == [other.next() for _ in range(200)] != [third.next() for _ in range(200)]


def test_a_crash_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but the documented errors is one, and its input is reported."""

    def fail(_: str) -> int:
        raise LookupError

    monkeypatch.setattr("twinhost.secure_zmq.keys.parse_moment", fail)
    (dated,) = (content for content in keys_corpus() if b"not_before" in content and b"SystemDigitalTwin" in content)
    counted = Account("failing", "none", 1, [dated], 1)
    with pytest.raises(LookupError) as crash:
        counted.take(take_key(), dated)
    assert "the input: b'#   twinhost" in crash.value.__notes__[0]


def test_a_good_input_is_taken() -> None:
    """So that a decoder which refuses everything would be seen: its corpus is good."""
    take = take_request()
    take(b'{"action":"ping"}')
    accepted = 0
    for content in keys_corpus():
        take_key()(content)
        accepted += b"secret-key" not in content
    assert accepted == len(keys_corpus()) - 1


def test_a_slow_input_is_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "INPUT_WITHIN_S", 0.01)
    counted = Account("slow", "none", 1, [b"x"], 10)

    def count(_: bytes) -> None:
        for _number in range(2_000_000):
            pass

    with pytest.raises(TimeoutError, match="an input took"):
        counted.take(count, b"x")


def test_growth_is_seen() -> None:
    kept: list[bytes] = []
    counted = Account("growing", "none", 1, [b"x"], 80)
    for _ in range(80):
        counted.take(lambda content: kept.append(content * 1_500_000), b"x")
    with pytest.raises(MemoryError, match="memory grew by"):
        counted.report()


def test_the_report_shows_a_failure(tmp_path: Path) -> None:
    """A target that nobody has ends its process, and with it the run."""
    from tests.fuzzing.__main__ import _decoder
    from tests.fuzzing.raw_port import Fault

    with pytest.raises(Fault, match="no such target"):
        _decoder("no such target", 10, 1, tmp_path)
