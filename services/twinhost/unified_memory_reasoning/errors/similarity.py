"""Patterns that a message resembles without matching them: by the kinds of error and the rare words that they share.

A text's terms are its words, without numbers, in lower case and stemmed, and the kinds of error that it names: `ENOSPC`
stands for that name, for its text (*no space left on device*), and for the phrases of other programs (*disk full*). So
a differently worded message still shares its kind with the pattern.

The weights are those of BM25; SQLite's FTS5 has that too, but it ranks by the words of a text and by no kinds.
"""

import errno
import heapq
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, NamedTuple, TypedDict

import re2  # type: ignore[import-untyped]

# The phrases that programs use for a kind: parts of regular expressions, in lower case. The texts of errno are added. A
# word that is in errors of many kinds (*gpu*, *database*, *missing*) is none: it weighs as a word.
_KINDS: Final = {
    "ENOMEM": r"out of (?:\w+ )?memory|oom\w*|(?:can(?:no|')t|failed to|unable to|could not) allocate|"
    r"\w*alloc\w* failed|memory ?error|mem(?:ory)?\S*(?: \S+){0,2} (?:exhausted|full|limit)|exceeded its memory\S*|"
    r"resource exhausted|(?:insufficient|not enough|ran out of) (?:\w+ )?memory|bad alloc",
    "KILLED": r"killed|sigkill|signal 9|code 137",
    "ECONNREFUSED": r"(?:connection|actively) refused|econnrefused|not listening|"
    r"(?:can(?:no|')t|could not|unable to|failed to) connect|connect\w* (?:failed|error)|nothing listen\w*",
    "ETIMEDOUT": r"time[ds]? ?-?out\w*|deadline|took too long|did(?: not|n't) (?:respond|answer|reply)|"
    r"no (?:response|answer|reply)|not respond\w*",
    "EACCES": r"(?:permission|access)(?: is)? denied|forbidden|not (?:permitted|allowed)|rights|privileges?|403|eperm",
    "EROFS": r"read ?-?only",
    "ENOSPC": r"no space|(?:disk|volume|filesystem|device|drive)\S*(?: \S+){0,2} full|"
    r"(?:enough|disk|free) space|out of (?:\w+ )?space|disk quota|edquot|space left",
    "ENOENT": r"no such file|file not found|file ?not ?found\w*|no file\w*",
    "EEXIST": r"already exists?|duplicate\w*|unique constraint",
    "EADDRINUSE": r"already (?:in use|allocated|bound)|in use|taken|occupied",
    "EBUSY": r"busy|locked|deadlock|in use by",
    "EMFILE": r"open files|file descriptors?|ulimit|enfile",
    "EPIPE": r"reset by peer|broken pipe|connection (?:was |has been )?(?:closed|lost|aborted|dropped|reset)|"
    r"closed by|hung up|econnreset|econnaborted|unexpected eof",
    "NAME": r"(?:could not |cannot |can't |failed to )resolve|name resolution|getaddrinfo|gaierror|"
    r"no such host|enotfound|nxdomain|name or service|unknown host|servname",
    "TLS": r"certificates?|certs?|ssl\w*|tls|x509",
    "EXPIRED": r"expir\w+|validity|ran out|no longer valid|not ?after|in the past|past its|has ended",
    "AUTH": r"401|unauthori[sz]ed|authenticat\w+|credentials?|jwt\w*|log ?in|sign in|password|api key|invalid grant",
    "RATE": r"429|too many requests|rate ?-?limit\w*|throttl\w+|per (?:minute|second|hour|day)|retry ?-?after",
    "PARSE": r"json\w*|pars\w+|unexpected (?:token|end|character)|malformed|unterminated|invalid (?:syntax|character)",
    "ENCODING": r"utf ?-?8|unicode\w*|codec|encoding|byte sequence|continuation byte|charmap",
    "MODULE": r"no module|module ?not ?found\w*|import ?error|(?:can(?:no|')t|could not) (?:import|find module)|"
    r"not installed",
    "CHECKSUM": r"check ?sums?|hash(?:es)?|digests?|sha ?-?(?:1|256|512)|md5|crc\w*|integrity",
    "MISMATCH": r"mis ?match\w*|incompatib\w+|(?:does|do)(?: not|n't) (?:match|fit|agree)|not equal|insufficient",
    "SHAPE": r"shapes?|dimensions?|mat ?mul\w*|mat1|matri\w+|operands?|tensors?",
    "VOCABULARY": r"tokeni[sz]er\S*|vocab\w*|embeddings?",
    "PUSH": r"push\w*|rejected|non ?-?fast ?-?forward|merge|rebase|conflict\w*",
    "DAEMON": r"daemon|docker\S*|containerd|sock\b|engine",
    "HEARTBEAT": r"heart ?-?beats?|sign of life|unresponsive|last seen|lost contact",
    "AUDIO": r"micro ?phones?|audio|alsa|pulse\w*|pipewire|pcm|input device",
    "SIGSEGV": r"segmentation fault|sigsegv|core dumped|access violation|segfault",
    "NULL": r"null|none ?type|nil|undefined",
    "UNAVAILABLE": r"50[234]|bad gateway|(?:temporarily |service )?unavailable|overloaded|try again later",
    "TOO_LARGE": r"413|too (?:large|long|big|many tokens)|(?:context|maximum|max) (?:length|window|size)",
    "VERSION": r"drivers?",
    "CLOCK": r"clock|skew\w*",
}


def _set_of_kinds() -> tuple[Any, list[str]]:
    """Return an RE2 set of the phrases of all kinds, and the kind of each member of the set."""
    options = re2.Options()
    options.max_mem = 2**24  # bytes
    members, kinds = re2.Set.SearchSet(options), []
    words = {name: [words] for name, words in _KINDS.items()}
    for code, name in errno.errorcode.items():
        said = (re.escape(os.strerror(code).lower()), name.lower(), f"errno {code}")
        words.setdefault(name, []).extend(said)
    for name, each in words.items():
        members.Add(rf"\b(?:{'|'.join(each)})\b")
        kinds.append(name)
    members.Compile()
    return members, kinds


_members, _kind_of_member = _set_of_kinds()
_LONGEST, _LONGEST_END = 1_500, 500  # characters that are read, of the beginning and the end
_word = re.compile(r"[a-z][a-z]+")
_hump = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
_path = re.compile(r"(?<!\w)(?:[A-Za-z]:|~|\.{1,2})?(?:[/\\][\w.@+~%-]+){2,}")  # its words don't describe the error
_ending = re.compile(r"(?<=\w{4})(?:ing|ions?|ed|es|s|er|ly)$")
_syntax = re.compile(r"\\([^A-Za-z0-9])|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^:)]*[:)]|\{\d[\d,]*\}|[.*+?|()^$]")
_IGNORED = frozenset(  # little words, and those that one of twenty messages of errors has
    "an is of to in on for and or it with at by was be are has have had this that from as the "  # noqa: SIM905
    "cannot error expect file invalid must not runtime type value".split()
)
_KIND = 1.5  # of a shared kind, in the rarest words; a kind suffices alone
_OF_SOLUTION = 0.25  # of a term that only the solution has
_FEWEST = 25  # patterns; with fewer, a word is as rare as among so many
_MOST_CANDIDATES = 1_000  # that are scored
MOST_SIMILAR = 12
LEAST = 1.3  # rarest words that a message shares with a pattern: the floor of a suggestion


def terms_of(text: str) -> frozenset[str]:
    """Return the terms of a text: its words in lower case, and the kinds of error that it names in capitals."""
    begun = _path.sub(" ", f"{text[:_LONGEST]} {text[_LONGEST:][-_LONGEST_END:]}")
    lower, plain = (" ".join(part.lower().split()) for part in (begun, _hump.sub(" ", begun)))
    matched = _members.Match(f"{lower} \n {plain}".encode(errors="replace")) or ()
    kinds = {_kind_of_member[member] for member in matched}
    words = (_ending.sub("", word) for word in _word.findall(plain))
    return frozenset(kinds | {word for word in words if word not in _IGNORED})


def _words_of(pattern: str) -> str:
    """Return the literal characters of a pattern, with blanks for its classes, groups and repetitions."""
    return _syntax.sub(lambda syntax: syntax[1] or " ", pattern)


class SuggestionDocument(TypedDict):
    """The solution of a pattern whose errors a message resembles; `score` is 0 to 1, 1 the most similar."""

    score: float
    pattern_id: int
    error_type: str
    solution: str
    written_by: str
    updated: str


class Similar(NamedTuple):
    """A pattern that a message resembles; `similarity` is 0 to 1."""

    similarity: float
    pattern_id: int


class _Document(NamedTuple):
    written_by: str
    own: frozenset[str]  # terms of the pattern and its type
    others: frozenset[str]  # terms that only the solution has


class SimilarPatterns:
    """The terms of patterns with a solution, kept up to date."""

    def __init__(self) -> None:
        self._documents: dict[int, _Document] = {}
        self._under: defaultdict[str, set[int]] = defaultdict(set)

    def put(self, pattern_id: int, error_type: str, pattern: str, solution: str, written_by: str) -> Callable[[], None]:
        """Add a pattern, or replace its terms; return what undoes it."""
        own = terms_of(f"{error_type} {_words_of(pattern)}")
        return self._replace(pattern_id, _Document(written_by, own, terms_of(solution) - own))

    def remove(self, pattern_id: int) -> Callable[[], None]:
        """Remove a pattern, if it is there; return what undoes it."""
        return self._replace(pattern_id, None)

    def _replace(self, pattern_id: int, document: _Document | None) -> Callable[[], None]:
        before = self._documents.pop(pattern_id, None)
        for term in before.own | before.others if before else ():
            self._under[term].discard(pattern_id)
            if not self._under[term]:
                del self._under[term]
        if document is not None:
            self._documents[pattern_id] = document
            for term in document.own | document.others:
                self._under[term].add(pattern_id)

        def undo() -> None:
            self._replace(pattern_id, before)

        return undo

    def search(self, message: str, hides: Callable[[str], bool]) -> list[Similar]:
        """Return the patterns that a message resembles, except those whose writer is hidden, the most similar first."""
        weights = {term: self._weight(term) for term in terms_of(message) if term in self._under}
        similar = []
        for number, document in self._candidates(weights):
            shared = sum(weights[term] for term in weights.keys() & document.own)
            shared += _OF_SOLUTION * sum(weights[term] for term in weights.keys() & document.others)
            if shared >= LEAST and not hides(document.written_by):
                similar.append(Similar(shared / (1 + shared), number))
        return heapq.nlargest(MOST_SIMILAR, similar)

    def _candidates(self, weights: dict[str, float]) -> list[tuple[int, _Document]]:
        """Return documents with the rarest of some terms."""
        numbers: set[int] = set()
        for term in sorted(weights, key=lambda term: (len(self._under[term]), term)):
            if len(numbers) >= _MOST_CANDIDATES:
                break
            numbers.update(islice(self._under[term], _MOST_CANDIDATES - len(numbers)))
        return [(number, self._documents[number]) for number in numbers]

    def _weight(self, term: str) -> float:
        """Return what a shared term counts: a word its inverse document frequency, of which 1 is the greatest."""
        if term.isupper():
            return _KIND
        among = max(_FEWEST, len(self._documents))
        return _idf(len(self._under[term]), among) / _idf(0, among)


def _idf(count: int, among: int) -> float:
    return math.log(1 + (among - count + 0.5) / (count + 0.5))
