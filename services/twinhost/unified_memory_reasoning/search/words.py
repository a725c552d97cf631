"""The words of a query, and other forms of them: the affixes of Filipino verbs and the linker -ng. Pure.

To find a root, a word loses one prefix of `_PREFIXES`, an infix -um- or -in- after its first consonant, one suffix -in,
-hin, -an, -han, a doubled first syllable, and the linker -ng after a vowel; the rest is its root if it has at least 4
letters and a vowel. The usual forms are then made from the root. A form that doesn't occur costs a lookup and changes
nothing. Forms that drop a vowel (`bilhin` of `bili`) are not found.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_LETTERS = frozenset("abdeghiklmnoprstuwy")  # of words that Filipino inflects; c, f, j, q, v, x, z occur in loans
_VOWELS = frozenset("aeiou")
_SHORTEST = 4  # letters of a root
_LONGEST = 24  # letters of a word that is inflected
_PREFIXES = (  # the longest first
    *("nakapag", "makapag", "ipinag", "nagpa", "magpa", "ipina", "pinag", "ipag", "naka", "maka", "pina"),
    *("nag", "mag", "pag", "ipa", "ini", "na", "ma", "pa", "ni", "i"),
)
_MADE = (
    *("nag", "mag", "pag", "ipinag", "ipag", "naka", "maka", "na", "ma", "pa", "pina", "nagpa", "magpa", "ipina", "i"),
)


@lru_cache(maxsize=4_096)
def related_forms(word: str) -> tuple[str, ...]:
    """Return forms with the same root, without the word itself; none for a word that Filipino would not inflect.

    Args:
        word: in lower case, without accents.
    """
    if not _SHORTEST <= len(word) <= _LONGEST or not _LETTERS.issuperset(word):
        return ()
    roots = _roots(word)
    forms = {form for root in roots for form in _forms(root)} | roots
    return tuple(sorted(forms - {word}))


def _roots(word: str) -> set[str]:
    """Return a word without its affixes; the word itself if it has none."""
    bare = {word} | {left for left in _without_linker(word) if _may_be_root(left)}
    bare.add(_without_prefix(word))
    bare |= {left for each in tuple(bare) for left in _without_infix(each)}
    bare |= {left for each in tuple(bare) for left in _without_suffix(each) if _may_be_root(left)}
    bare |= {left for each in tuple(bare) for left in _without_doubling(each)}
    roots = {each for each in bare if each != word and _may_be_root(each)}
    return roots or {word}


def _may_be_root(text: str) -> bool:
    return len(text) >= _SHORTEST and not _VOWELS.isdisjoint(text)


def _without_prefix(word: str) -> str:
    """Return a word without the longest prefix that leaves a possible root."""
    for prefix in _PREFIXES:
        if word.startswith(prefix) and _may_be_root(word[len(prefix) :]):
            return word[len(prefix) :]
    return word


def _without_linker(word: str) -> list[str]:
    return [word[:-2]] if word.endswith("ng") and word[-3] in _VOWELS else []


def _without_infix(word: str) -> list[str]:
    if word[:1] not in _VOWELS and word[1:3] in ("um", "in") and word[3:4] in _VOWELS:
        return [word[0] + word[3:]]
    return [word[2:]] if word[:2] in ("um", "in") and word[2:3] in _VOWELS else []


def _without_suffix(word: str) -> list[str]:
    for suffix in ("hin", "han", "in", "an"):
        if word.endswith(suffix):
            return [_o_for_u(word[: -len(suffix)])]
    return []


def _without_doubling(word: str) -> list[str]:
    if word[:1] in _VOWELS:
        return [word[1:]] if word[:1] == word[1:2] else []
    return [word[2:]] if word[:2] == word[2:4] and word[1:2] in _VOWELS else []


def _o_for_u(root: str) -> str:
    """Return `luto` for `lutu`: before a suffix, the o of a last syllable is written u."""
    place = root.rfind("u")
    return root[:place] + "o" + root[place + 1 :] if place >= len(root) - 2 else root


def _forms(root: str) -> set[str]:
    doubled = (root[0] if root[0] in _VOWELS else root[:2]) + root
    suffixes = ("in", "an", "hin", "han") if root[-1] in _VOWELS else ("in", "an")
    forms = {doubled}
    for stem in (root, doubled):
        before_suffix = stem[:-2] + stem[-2:].replace("o", "u")
        forms |= {f"{prefix}{stem}" for prefix in _MADE} | {_infixed(stem, "um"), _infixed(stem, "in")}
        forms |= {f"{before_suffix}{suffix}" for suffix in suffixes}
        forms |= {f"{_infixed(before_suffix, 'in')}{suffix}" for suffix in suffixes if suffix.endswith("an")}
    if root[0] in "lrwy":
        forms.add(f"ni{root}")
    if root[-1] in _VOWELS:
        forms.add(f"{root}ng")
    return forms


def _infixed(stem: str, affix: str) -> str:
    return f"{affix}{stem}" if stem[0] in _VOWELS else f"{stem[0]}{affix}{stem[1:]}"


MOST_WORDS = 32  # of a query; the first ones count

Forms = Callable[[str], tuple[str, ...]]  # returns other forms of a word

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
ENGLISH_STOP_WORDS = frozenset(_ENGLISH.split())
STOP_WORDS = ENGLISH_STOP_WORDS | frozenset(_FILIPINO.split())


def words_of(query: str) -> tuple[list[str], list[str]]:
    """Return the distinct words to search, in the query's order, and the skipped ones.

    A word is a run of letters and digits, in lower case; everything else separates words. Stop words of English and
    Filipino are skipped unless there are no others, and so are words after the first MOST_WORDS.
    """
    text = unicodedata.normalize("NFC", query).casefold()
    words = list(dict.fromkeys(_WORD.findall(text)))
    significant = [word for word in words if _plain(word) not in STOP_WORDS] or words
    kept = significant[:MOST_WORDS]
    return kept, [word for word in words if word not in kept]


def forms_of(word: str) -> tuple[str, ...]:
    """Return other forms of a word that a text may contain."""
    return related_forms(_plain(word))


def _plain(word: str) -> str:
    """Return a word without its accents, as the index compares it."""
    return "".join(each for each in unicodedata.normalize("NFD", word) if not unicodedata.combining(each))
