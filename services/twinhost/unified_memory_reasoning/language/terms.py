"""The words of a query, other forms of them, and their counterparts in the other language. Pure.

`word_pairs.txt` has Filipino words with English ones. Filipino words have other forms by affixes and the linker -ng.

To find a root, a word loses one prefix of `_PREFIXES`, an infix -um- or -in- after its first consonant, one suffix -in,
-hin, -an, -han, a doubled first syllable, and the linker -ng after a vowel; the rest is its root if it has at least 4
letters and a vowel. The usual forms are then made from the root. A form that doesn't occur costs a lookup and changes
nothing. Forms that drop a vowel (`bilhin` of `bili`) are not found.
"""

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from twinhost.unified_memory_reasoning.language.dates import AskedDate, dates_of
from twinhost.unified_memory_reasoning.language.lexicon import word_pairs
from twinhost.unified_memory_reasoning.language.text import is_stop_word, without_accents, words_of

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


def related_forms(word: str) -> tuple[str, ...]:
    """Return forms with the same root, without the word itself; none for a word that Filipino would not inflect."""
    if not _SHORTEST <= len(word) <= _LONGEST or not _LETTERS.issuperset(word):
        return ()
    return _related_forms(word)


@lru_cache(maxsize=4_096)
def _related_forms(word: str) -> tuple[str, ...]:
    roots = _roots(word)
    forms = {form for root in roots for form in _forms(root)} | roots
    return tuple(sorted(forms - {word}))


def _roots(word: str) -> set[str]:
    """Return a word without its affixes; the word itself if it has none."""
    bare = {word} | {left for left in _without_linker(word) if _may_be_root(left)}
    bare.add(_without_prefix(word))
    bare |= {left for form in tuple(bare) for left in _without_infix(form)}
    bare |= {left for form in tuple(bare) for left in _without_suffix(form) if _may_be_root(left)}
    bare |= {left for form in tuple(bare) for left in _without_doubling(form)}
    roots = {form for form in bare if form != word and _may_be_root(form)}
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
MOST_WITH_FORMS = 8  # words of a query, the first ones, that are searched in other forms and the other language

_LONGER = 3  # letters of a counterpart's other forms, at most, than the counterpart


@dataclass(frozen=True, slots=True)
class AskedWord:
    """A word of a query, its other forms, and words of the other language; a stop word is common, and has neither."""

    text: str
    is_common: bool = False
    forms: tuple[str, ...] = ()
    counterparts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks for: its dates, its words, and the order of all of them, also of those that are skipped."""

    dates: list[AskedDate]
    words: list[AskedWord]
    order: list[str]


def asked_in(query: str, today: date, word_pairs: bool = True) -> Question:
    """Return the dates and words to search.

    A word is a run of letters and digits, in lower case; everything else separates words. The first MOST_WORDS words
    that are not common count, and as many common ones. With `word_pairs`, words are searched in the other language too.
    """
    order = list(dict.fromkeys(words_of(query)))
    common = [word for word in order if is_stop_word(word)]
    others = [word for word in order if not is_stop_word(word)]
    words = [
        AskedWord(word, forms=forms_of(word), counterparts=counterparts_of(word) if word_pairs else ())
        if place < MOST_WITH_FORMS
        else AskedWord(word)
        for place, word in enumerate(others[:MOST_WORDS])
    ]
    words += [AskedWord(word, is_common=True) for word in common[:MOST_WORDS]]
    return Question(dates_of(query.lower(), today), words, order)


def forms_of(word: str) -> tuple[str, ...]:
    """Return other forms of a word that a text may contain; none for a known English one, which the index stems."""
    plain = without_accents(word)
    return () if plain in word_pairs().english else related_forms(plain)


def counterparts_of(word: str) -> tuple[str, ...]:
    """Return what a Filipino word means in English, and the forms of the Filipino words for an English one."""
    return _counterparts_of(word) if len(word) <= _LONGEST else ()


@lru_cache(maxsize=4_096)
def _counterparts_of(word: str) -> tuple[str, ...]:
    pairs, plain = word_pairs().counterparts, without_accents(word)
    roots = _roots(plain) if _SHORTEST <= len(plain) <= _LONGEST and _LETTERS.issuperset(plain) else set()
    counterparts: dict[str, None] = {}
    for known in (plain, *sorted(roots), *_without_english_suffix(plain)):
        for other in pairs.get(known, ()):
            short = (form for form in related_forms(other) if len(form) <= len(other) + _LONGER)
            counterparts.update(dict.fromkeys((other, *short)))
    return tuple(counterparts)


def _without_english_suffix(word: str) -> list[str]:
    """Return what an English word may be without -s, -es, -d, -ed, -ing: `stop` and `stopp` for `stopped`."""
    stems = [word[: -len(suffix)] for suffix in ("s", "es", "d", "ed", "ing") if word.endswith(suffix)]
    return [form for stem in stems if len(stem) > 2 for form in (stem, f"{stem}e", stem[:-1]) if form != word]
