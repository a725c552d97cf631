"""The words of a query: what a text asks for, without the words that every text has. Pure: no store."""

import re
import unicodedata
from collections.abc import Callable

from twinhost.unified_memory_reasoning.recall.filipino import related_forms

MOST_WORDS = 32  # of a query; the first ones count

Forms = Callable[[str], tuple[str, ...]]  # of a word, the others that are as good

_WORD = re.compile(r"[^\W_]+")
_ENGLISH = """
a about after again all also am an and any are as at be because been before being but by can could d did do does doing
done down during each few for from further get got had has have having he her here hers him his how i if in into is it
its just ll m me more most my no nor not now of off on once only or other our ours out over own re s same she should so
some such t than that the their theirs them then there these they this those through to too under until up us ve very
was we were what when where which while who whom whose why will with would you your yours please tell
"""
_FILIPINO = """
ako akin aking alin ang ano anong at atin ating ay ayon ba bakit bago bawat daw rin din dito doon gaya hindi iba ibig
ikaw ilan inyo ito itong iyo iyon iyong ka kami kanila kanilang kanino kanya kanyang kapag kay kaya kayo ko kung kailan
kina lahat lamang lang may mayroon mga mo muna na nasa nang natin namin ng nga ngayon ni nila nina nito niya niyon
noon noong o paano pa pala para pero po raw sa saan sapagkat si sila sina sino siya sinong tayo tungkol upang
wala y yan yon yung
"""
STOP_WORDS = frozenset(_ENGLISH.split()) | frozenset(_FILIPINO.split())


def words_of(query: str) -> tuple[list[str], list[str]]:
    """Return the distinct words to look for, in the query's order, and those that were left out.

    A word is a run of letters and digits, in lower case; whatever else a query has parts words and means nothing.
    Stop words of English and Filipino are left out unless nothing else remains, and so is what is over MOST_WORDS.
    """
    text = unicodedata.normalize("NFC", query).casefold()
    words = list(dict.fromkeys(_WORD.findall(text)))
    telling = [word for word in words if _plain(word) not in STOP_WORDS] or words
    kept = telling[:MOST_WORDS]
    return kept, [word for word in words if word not in kept]


def forms_of(word: str) -> tuple[str, ...]:
    """Return other forms of a word that a text may have in its place."""
    return related_forms(_plain(word))


def _plain(word: str) -> str:
    """Return a word without its accents, as the index compares it."""
    return "".join(each for each in unicodedata.normalize("NFD", word) if not unicodedata.combining(each))
