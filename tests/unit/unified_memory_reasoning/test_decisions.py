"""Decisions: what states one, what does not, which answers do, and which earlier decision a withdrawal is about."""

import time
from pathlib import Path

import msgspec
import pytest

from tests.benchmarks.bench_recall import Agent, Figures, measure_decisions
from tests.benchmarks.recall_set import HALVES, load
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS
from twinhost.unified_memory_reasoning.conversations.context_text import Utterance
from twinhost.unified_memory_reasoning.conversations.interactions import Interactions
from twinhost.unified_memory_reasoning.conversations.summary import SummaryPart
from twinhost.unified_memory_reasoning.language.decisions import (
    DECIDING_CHARACTERS,
    decisions_in,
    withdrawal_in,
)
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

DECISIONS = [
    "We're going with the 8 o'clock train.",
    "OK, Thursday it is.",
    "Deal.",
    "Let's make it Thursday at 4.",
    "I'll take the green one.",
    "Green it is",
    "The board approved the new budget.",
    "We picked Ana for treasurer.",
    "Agreed, no meetings on Friday.",
    "Final answer: the red bike.",
    "Scrap that, we use Postgres instead.",
    "no Baguio, Bohol instead",
    "huwag na sa Baguio, sa Bohol na lang",
    "Sige, Sabado na lang.",
    "Doon na lang tayo sa Tagaytay",
    "Kukunin natin yung asul.",
    "Napagkasunduan namin na alas-otso",
    "Bilhin na natin yung 2TB",
    "Final na, sa Lunes ang alis",
    "Nagkasundo na kami kay Ana",
    "Ako na bahala sa pagkain, final",
    "From now on we meet on Tuesdays.",
    "Use SQLite rather than Postgres.",
    "I have decided to sell the car.",
    "It's settled: Lisbon in May.",
    "We voted and the blue logo won.",
    "Okay, we'll paint it white.",
    "We won't use Kafka, Redis is enough.",
    "Hindi na Kafka, Redis na lang.",
    "So we're keeping the old server until June.",
    "Booked: 3 rooms at the Kouter hostel.",
    "Go ahead with the purchase.",
    "Sang-ayon kaming lahat, si Ben ang presidente",
    "Let us use port 7230.",
    "Desisyon namin: ibenta ang kotse",
    "We settled on the oak table",
    "I am going with option B",
    "Not the beige one, take the blue one.",
    "Go with the second offer.",
    "Everyone said yes to the beach house.",
    "Sa halip na Miyerkules, Huwebes tayo magkikita.",
    "Push na natin ang release bukas",
    "Magbu-bus na lang kami.",
    "Gagamitin natin ang bagong susi.",
]
OTHERS = [
    "Nobody agreed.",
    "hindi pa kami nagkasundo",
    "Can you decide on the color?",
    "Did we decide?",
    "Maybe we should go with Bohol.",
    "If we go with the blue one we need paint.",
    "I haven't decided yet",
    "We need to decide by Friday.",
    "We should decide soon",
    "I don't think we agreed on anything",
    "Let's decide tomorrow",
    "Let's talk about it later",
    "We'll see.",
    "The decision is pending.",
    "We'll decide next week.",
    "pag-isipan muna natin",
    "pag-usapan natin bukas",
    "kailangan nating magdesisyon",
    "sana magkasundo na tayo",
    "Please book the room for Friday",
    "Could you use the other one?",
    "Wala pang napagkasunduan",
    "They couldn't agree on the price",
    "We have not settled on a date.",
    "No one approved it.",
    "Hindi natin napagkasunduan yan",
    "Should we go with the red one?",
    "What did we agree on?",
    "Alin ba ang kukunin natin?",
    "Kung papayag sila, sa Bohol tayo",
    "Baka sa Bohol na lang tayo",
    "The bus leaves at 8 on Monday.",
    "My sister lives in Cebu.",
    "I think we should take the train.",
    "We were going to go with Ana but nothing is final.",
    "Pwede bang Sabado na lang?",
    "Pakibook naman yung hotel.",
    "It would be nice if we agreed.",
    "Let me know what you decided.",
    "Tell me when you have settled on a name",
    "The server is down again.",
    "ayaw nilang pumayag",
    "Ano ang napagkasunduan nyo kahapon",
    "Remind me what we decided on",
    "I wonder what they agreed",
    "We almost agreed on Lisbon.",
    "Do you remember what was decided",
]


@pytest.mark.parametrize("text", DECISIONS)
def test_a_commitment_is_a_decision(text: str) -> None:
    assert list(decisions_in(text)) == [text]


@pytest.mark.parametrize("text", OTHERS)
def test_what_asks_denies_or_supposes_is_no_decision(text: str) -> None:
    assert list(decisions_in(text)) == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Do we take the blue one?", "Yes, the blue one."),
        ("Should we paint the door or leave it?", "Leave it."),
        ("Ano ang gagamitin natin, bus o van?", "Van, mas mura."),
        ("Would you like tea or coffee?", "Coffee."),
    ],
)
def test_an_answer_to_what_to_do_is_a_decision(question: str, answer: str) -> None:
    """With the question before it, and not alone."""
    assert list(decisions_in(answer, question)) == [answer]
    assert list(decisions_in(answer)) == []
    assert list(decisions_in("I don't know.", question)) == []
    assert list(decisions_in(answer, "How long is the bus ride?")) == []


def said(*texts: str) -> SummaryPart:
    """Return the summary after two speakers said texts in turn."""
    part, before = SummaryPart(), None
    for number, text in enumerate(texts, start=1):
        speaker = "ann" if number % 2 else "bob"
        one = Utterance(number, "user_query", speaker, text, 0.5)
        part, before = part.noted(one.after(before)), one
    return part


def test_turns_beside_the_set_reach_the_goal() -> None:
    """Turns that were written for this test: what was said before, and whether the turn decides something.

    Of the newest 248, those that the rules miss are left as they are.
    """
    lines = Path(__file__).with_name("decision_turns.tsv").read_text().splitlines()
    turns = [line.split("\t") for line in lines]
    found = [(label, text) for label, before, text in turns if any(decisions_in(text, before))]
    right = sum(label == "decision" for label, _ in found)
    assert right / len(found) >= 0.98, [text for label, text in found if label == "other"]
    assert right / sum(label == "decision" for label, _, _ in turns) >= 0.94


TUESDAY = "sa Martes na tayo aalis."
PRACTICE = "Alas-dos ba o alas-tres ang practice?"
RED_AND_PINE = ["We agreed on red tiles.", "No oak, we take pine."]


@pytest.mark.parametrize(
    ("texts", "listed"),
    [
        (["We decided to go to Baguio.", "no Baguio, Bohol instead"], ["no Baguio, Bohol instead"]),
        (["Sa Baguio na lang tayo.", "huwag na sa Baguio, sa Bohol na lang"], ["huwag na sa Baguio, sa Bohol na lang"]),
        (["Let's book the Friday ferry.", "The rice is bought.", "The Friday ferry is cancelled."], []),
        (["We agreed on walks at noon.", "My knee hurts. Those walks at noon? That agreement is off."], []),
        (["We agreed on red tiles.", "We agreed on oak doors.", "No oak, we take pine."], RED_AND_PINE),
        (["Shall we take the night bus?", "Deal."], ["Shall we take the night bus? → Deal."]),
        (["Alas-dos ba o alas-tres ang practice?", "Alas-tres."], [f"{PRACTICE} → Alas-tres."]),
        (["Let's take the night bus to Laoag.", "Game!"], ["Let's take the night bus to Laoag."]),
        (["Let's take the night bus to Laoag.", "No, my back hurts on buses."], []),
        (["Let's book the ferry.", "Let's take the coach.", "No, I get sick."], ["Let's book the ferry."]),
        (["We agreed on red tiles.", "Go ahead with 3M.", "Stop, I take that back."], ["We agreed on red tiles."]),
        (["Sa Lunes tayo aalis.", f"Hindi na tuloy sa Lunes, {TUESDAY}"], [f"Hindi na tuloy sa Lunes, {TUESDAY}"]),
        (["Let's take the bus.", "The bus is cancelled, we take the van."], ["The bus is cancelled, we take the van."]),
        (["Shall we hire Ben?", "Yes.", "Not Ben, let's hire Carla."], ["Not Ben, let's hire Carla."]),
        (["We agreed to adopt a cat.", "We changed our minds about the cat."], []),
        (["Go kami sa Pila, ok kay Ana.", "Hindi na sa pinsan ni Ana ang kotse."], ["Go kami sa Pila, ok kay Ana."]),
        (["Shall we cancel the gym?", "Yes, cancel it."], ["Shall we cancel the gym? → Yes, cancel it."]),
        (["We decided to go to Baguio.", "Is Baguio cancelled?"], ["We decided to go to Baguio."]),
        (["We decided to go to Baguio.", "The dentist is cancelled."], ["We decided to go to Baguio."]),
    ],
)
def test_a_withdrawn_decision_leaves_the_summary(texts: list[str], listed: list[str]) -> None:
    """The one that the withdrawal is about, by the words that both have; the new one stands."""
    assert said(*texts).document()["key_decisions"] == listed


def test_the_proposal_of_another_writer_is_not_kept() -> None:
    """An answer names the interaction that it answers, whose text leaves the list with its writer or speaker."""
    part = said("Shall we take the night bus?", "Deal.").without(lambda entry: entry.speaker == "ann")
    assert part.document()["key_decisions"] == ["Deal."]
    assert "bus" not in msgspec.json.encode(part).decode()


def test_an_older_summary_is_read() -> None:
    """One that was stored before withdrawals and proposals were noted."""
    part = said("We agreed on red tiles.")
    stored = msgspec.json.encode([[entry[:5] for entry in entries] for entries in msgspec.to_builtins(part)[:5]])
    assert msgspec.json.decode(stored, type=SummaryPart) == part


def test_the_store_reads_the_turn_before(tmp_path: Path) -> None:
    """Of the same session and another speaker, and not a quarantined writer's."""
    database = Database(tmp_path / "db", [REPLY_LOG_SCHEMA, *MIGRATIONS])
    interactions = Interactions(database)

    def decisions(session: str, asker: str, writer: str = "Alice") -> list[str]:
        with database.transaction():
            interactions.add(session, "user_query", "Do we take the blue one?", writer, speaker=asker)
            interactions.add("other", "user_query", "It rains.", "Alice", speaker="eve")
            interactions.add(session, "user_query", "Yes, the blue one.", "Alice", speaker="bob")
        return interactions.context(session).summary.document()["key_decisions"]

    with database.transaction():
        Quarantine(database).add("Mallory", "operator")
    assert decisions("one", "ann") == ["Do we take the blue one? → Yes, the blue one."]
    assert decisions("two", "bob") == []
    assert decisions("three", "ann", "Mallory") == []
    database.close()


HOSTILE = [
    "not ",
    "na ",
    "sang-ayon ",
    "aa",
    "kunin ",
    "wag na ",
    "x. ",
    "tayo ",
    "\n",
    "i",
    "sa ",
    ", si ",
    "so i do x,",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_is_searched_in_time(unit: str) -> None:
    text = (unit * DECIDING_CHARACTERS)[:DECIDING_CHARACTERS]
    began = time.thread_time()
    list(decisions_in(text, f"{text[:498]}?"))
    withdrawal_in(text)
    assert time.thread_time() - began < 0.5


def test_the_development_set_keeps_its_figures(tmp_path: Path) -> None:
    """Precision and recall as documented, in both halves, of what summaries list."""
    of, figures, config = load(), Figures(), tmp_path / "network_config.yaml"
    config.write_text(DEFAULT_PATH.read_text(encoding="utf-8").replace("embeddings: auto", "embeddings: off"))
    with Agent(tmp_path / "agent", config) as agent:
        agent.fill(of.turns())
        measure_decisions(figures, agent, of)
    for half in HALVES:
        assert figures.share("decisions: precision", half) >= 0.85
        assert figures.share("decisions: recall", half) >= 0.85
