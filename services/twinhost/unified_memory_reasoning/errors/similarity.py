"""Patterns that a message resembles without matching them: BM25 over words and kinds of error.

A text's terms are its words, without numbers, in lower case and stemmed, and the kinds of error that it names: `ENOSPC`
stands for that name, for its text (*no space left on device*), and for the phrases of other programs (*disk full*). So
a differently worded message still shares its kind with the pattern.
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

# The phrases that programs use for a kind: parts of regular expressions, in lower case. The texts of errno are added.
_KINDS: Final = {
    "ENOMEM": r"out of (?:\w+ )?memory|oom\w*|(?:can(?:no|')t|failed to|unable to|could not) allocate|"
    r"\w*alloc\w* failed|memory ?error|mem(?:ory)?\S*(?: \S+){0,2} (?:exhausted|full|limit)|exceeded its memory\S*|"
    r"resource exhausted|(?:insufficient|not enough|ran out of) (?:\w+ )?memory|bad alloc|heap",
    "KILLED": r"killed|sigkill|signal 9|code 137|terminated",
    "GPU": r"gpus?|cuda\w*|nvidia|nvml|nvrm|vram|device ordinal|cudnn|rocm",
    "ECONNREFUSED": r"refused|econnrefused|not listening|(?:can(?:no|')t|could not|unable to|failed to) connect|"
    r"connect\w* (?:failed|error)|unreachable|no route|nothing listen\w*|server running",
    "ETIMEDOUT": r"time[ds]? ?-?out\w*|deadline|took too long|did(?: not|n't) (?:respond|answer|reply)|"
    r"no (?:response|answer|reply|data|bytes)|not respond\w*|within \S+ ?s\w*|gave up",
    "EACCES": r"permission|denied|forbidden|not (?:permitted|allowed)|rights|privileges?|read ?-?only|403|eperm|"
    r"erofs",
    "ENOSPC": r"no space|(?:disk|volume|filesystem|device|drive)\S*(?: \S+){0,2} full|"
    r"(?:enough|disk|free) space|out of (?:\w+ )?space|disk quota|edquot|space left",
    "ENOENT": r"no such file|(?:file )?not found|does(?: not|n't) exist|"
    r"(?:can(?:no|')t|could not|unable to) (?:find|open)|missing|file ?not ?found\w*|404|nowhere|no file\w*",
    "EEXIST": r"already exists?|duplicate\w*|unique constraint",
    "EADDRINUSE": r"already (?:in use|allocated|bound)|in use|taken|occupied|\bbind\w*",
    "EBUSY": r"busy|locked|lock|deadlock|somebody else|another (?:process|program|connection)|in use by",
    "EMFILE": r"open files|file descriptors?|fds?|ulimit|nofile|enfile",
    "EPIPE": r"reset by peer|broken pipe|connection (?:was |has been )?(?:closed|lost|aborted|dropped|reset)|"
    r"closed by|hung up|econnreset|econnaborted|unexpected eof",
    "NAME": r"(?:could not |cannot |can't |failed to )?resolve\w*|name resolution|dns|getaddrinfo|gaierror|"
    r"no such host|enotfound|nxdomain|name or service|unknown host|lookup|servname",
    "TLS": r"certificates?|certs?|ssl\w*|tls|x509|handshake|ca bundle",
    "EXPIRED": r"expir\w+|validity|ran out|no longer valid|not ?after|in the past|past its|has ended|stale|"
    r"outdated",
    "AUTH": r"401|unauthori[sz]ed|authenticat\w+|credentials?|tokens?|jwt\w*|log ?in|sign in|password|session|"
    r"api key|invalid grant",
    "RATE": r"429|too many requests|rate ?-?limit\w*|throttl\w+|quota|per (?:minute|second|hour|day)|a minute|"
    r"retry ?-?after",
    "PARSE": r"json\w*|pars\w+|unexpected (?:token|end|character)|malformed|expecting|delimiter|unterminated|"
    r"invalid (?:syntax|character)|yaml|toml",
    "ENCODING": r"utf ?-?8|unicode\w*|codec|encoding|byte sequence|continuation byte|charmap|ascii|mojibake",
    "MODULE": r"no module|module ?not ?found\w*|import ?error|(?:can(?:no|')t|could not) (?:import|find module)|"
    r"import|not installed|packages?|dependenc\w+|require\w*",
    "CHECKSUM": r"check ?sums?|hash(?:es)?|digests?|sha ?-?(?:1|256|512)|md5|crc\w*|corrupt\w*|integrity|damaged|"
    r"truncated",
    "MISMATCH": r"mis ?match\w*|incompatib\w+|differ\w*|(?:does|do)(?: not|n't) (?:match|fit|agree)|not equal|"
    r"insufficient|unsupported|inconsistent|instead of|outside",
    "VERSION": r"versions?|drivers?|runtime|abi|kernel",
    "SHAPE": r"shapes?|dimensions?|dims?|mat ?mul\w*|mat1|matri\w+|operands?|tensors?|multipl\w+|broadcast\w*|size",
    "VOCABULARY": r"tokeni[sz]er\S*|vocab\w*|embeddings?|token ids?",
    "PUSH": r"push\w*|rejected|non ?-?fast ?-?forward|behind|upstream|merge|rebase|conflict\w*|diverged?|refs?",
    "DAEMON": r"daemon|docker\S*|containerd|sock\b|engine|is (?:not running|down|stopped)",
    "HEARTBEAT": r"heart ?-?beats?|sign of life|alive|unresponsive|last seen|lost contact|missed|offline|"
    r"disconnected|silent",
    "AUDIO": r"micro ?phones?|mic|audio|sound|record\w*|capture|alsa|pulse\w*|pipewire|pcm|input device|hw:\S+",
    "DATABASE": r"data ?bases?|db|sqlite\w*|postgres\w*|psql|mysql|mariadb|transaction|sql",
    "MODEL": r"models?|weights|checkpoints?|safetensors|gguf|onnx|shards?",
    "NOT_FINITE": r"nan|inf(?:inity)?|not finite|diverg\w+|overflow\w*",
    "SIGSEGV": r"segmentation fault|sigsegv|core dumped|access violation|segfault",
    "NULL": r"null|none ?type|nil|undefined",
    "NOT_RUNNING": r"not running|is down|stopped|inactive|crashed|exited",
    "UNAVAILABLE": r"50[234]|bad gateway|(?:temporarily |service )?unavailable|overloaded|try again later",
    "TOO_LARGE": r"413|too (?:large|long|big|many tokens)|exceed\w*|payload|"
    r"(?:context|maximum|max) (?:length|window|size)",
    "RANGE": r"out of (?:range|bounds)|index\w*|bounds",
    "ARGUMENT": r"invalid argument|unexpected (?:keyword|argument)|unrecogni[sz]ed|"
    r"unknown (?:option|argument|flag|field)",
    "CONFIG": r"config\w*|settings?|environment|env|variables?|not set|unset",
    "TYPE": r"type ?error|(?:can(?:no|')t|could not) convert|invalid literal|wrong type|not (?:callable|iterable)",
    "SCHEMA": r"no such (?:table|column)|schema|migrations?|columns?|relation|foreign key",
    "RECURSION": r"recursion|stack overflow|maximum depth",
    "CANCELLED": r"cancel\w+|abort\w*|interrupt\w*|sigint|sigterm|signal 15",
    "QUEUE": r"queue|backlog|buffer|back ?-?pressure|dropped",
    "CLOCK": r"clock|skew\w*|ntp|time sync\w*|timestamp",
    "PERIPHERAL": r"usb|serial|tty\w*|camera|webcam|sensor|bluetooth|unplugged",
    "HEAT": r"overheat\w*|temperature|thermal|too hot|fan",
    "IMAGE": r"image|pull|manifest|registry",
    "LIBRARY": r"shared object|librar\w+|dll|undefined symbol|glibc\w*|so\.\d",
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
_IGNORED = frozenset(
    "an is of to in on for and or it with at by was be are has have had this that from as the".split()  # noqa: SIM905
)
_KIND_WEIGHT = 2.0  # of a kind, against a word
_SOLUTION_WEIGHT = 0.5  # of a solution's terms, against those of the pattern and the type
_UNKNOWN_WEIGHT = 0.25  # of a word that no pattern has, against a rare one
_MOST_UNKNOWN = 2.0  # times what the known terms weigh: a store of many patterns makes every unknown word rare
_K1, _LENGTH_SHARE = 1.2, 0.3  # BM25's k1 and b
_MOST_CANDIDATES = 1_000  # that are scored
MOST_SIMILAR = 12
LEAST_SIMILARITY = 0.2  # at 0.3, 5 of 50 messages of the development set lose theirs


def terms_of(text: str) -> frozenset[str]:
    """Return the terms of a text: its words in lower case, and the kinds of error that it names in capitals."""
    begun = _path.sub(" ", f"{text[:_LONGEST]} {text[_LONGEST:][-_LONGEST_END:]}")
    lower, plain = (" ".join(each.lower().split()) for each in (begun, _hump.sub(" ", begun)))
    found = _members.Match(f"{lower} \n {plain}".encode(errors="replace")) or ()
    kinds = {_kind_of_member[member] for member in found}
    words = (_ending.sub("", word) for word in _word.findall(plain))
    return frozenset(kinds | {word for word in words if word not in _IGNORED})


def _words_of(pattern: str) -> str:
    """Return the literal characters of a pattern, with blanks for its classes, groups and repetitions."""
    return _syntax.sub(lambda found: found[1] or " ", pattern)


class SuggestionDocument(TypedDict):
    """The solution of a pattern whose errors a message resembles; `score` is 0 to 1, 1 the most similar."""

    score: float
    pattern_id: int
    error_type: str
    solution: str


class Similar(NamedTuple):
    """A pattern that a message resembles; `similarity` is 0 to 1."""

    similarity: float
    pattern_id: int


class _Document(NamedTuple):
    written_by: str
    weights: dict[str, float]


class SimilarPatterns:
    """The terms of patterns with a solution, kept up to date."""

    def __init__(self) -> None:
        self._documents: dict[int, _Document] = {}
        self._under: defaultdict[str, set[int]] = defaultdict(set)
        self._terms = 0  # of all documents

    def put(self, pattern_id: int, error_type: str, pattern: str, solution: str, written_by: str) -> Callable[[], None]:
        """Add a pattern, or replace its terms; return what undoes it."""
        weights = dict.fromkeys(terms_of(solution), _SOLUTION_WEIGHT)
        weights.update(dict.fromkeys(terms_of(f"{error_type} {_words_of(pattern)}"), 1.0))
        return self._replace(pattern_id, _Document(written_by, weights))

    def remove(self, pattern_id: int) -> Callable[[], None]:
        """Remove a pattern, if it is there; return what undoes it."""
        return self._replace(pattern_id, None)

    def _replace(self, pattern_id: int, document: _Document | None) -> Callable[[], None]:
        before = self._documents.pop(pattern_id, None)
        for term in before.weights if before else ():
            self._under[term].discard(pattern_id)
            if not self._under[term]:
                del self._under[term]
        if document is not None:
            self._documents[pattern_id] = document
            for term in document.weights:
                self._under[term].add(pattern_id)
        self._terms += (len(document.weights) if document else 0) - (len(before.weights) if before else 0)

        def undo() -> None:
            self._replace(pattern_id, before)

        return undo

    def search(self, message: str, hides: Callable[[str], bool]) -> list[Similar]:
        """Return the patterns that a message resembles, except those whose writer is hidden, the most similar first."""
        terms = terms_of(message)
        rarity = {term: self._rarity(term) for term in terms if term in self._under}
        unknown = _UNKNOWN_WEIGHT * (len(terms) - len(rarity)) * self._rarity("")
        whole = sum(rarity.values()) + min(unknown, _MOST_UNKNOWN * sum(rarity.values()))
        scored = (
            Similar(self._score(document, rarity) / whole, number)
            for number, document in self._candidates(rarity)
            if not hides(document.written_by)
        )
        return heapq.nlargest(MOST_SIMILAR, (each for each in scored if each.similarity >= LEAST_SIMILARITY))

    def _candidates(self, rarity: dict[str, float]) -> list[tuple[int, _Document]]:
        """Return documents with the rarest of some terms."""
        numbers: set[int] = set()
        for term in sorted(rarity, key=lambda term: (-rarity[term], term)):
            if len(numbers) >= _MOST_CANDIDATES:
                break
            numbers.update(islice(self._under.get(term, ()), _MOST_CANDIDATES - len(numbers)))
        return [(number, self._documents[number]) for number in numbers]

    def _score(self, document: _Document, rarity: dict[str, float]) -> float:
        """Return BM25, with a term's weight for its frequency, so that a term of weight 1 counts at most its rarity."""
        mean = self._terms / len(self._documents)
        length = 1 - _LENGTH_SHARE + _LENGTH_SHARE * len(document.weights) / mean
        found = ((rarity[term], document.weights[term]) for term in rarity.keys() & document.weights.keys())
        return sum(rare * min(1.0, weight * (_K1 + 1) / (weight + _K1 * length)) for rare, weight in found)

    def _rarity(self, term: str) -> float:
        """Return the inverse document frequency of BM25, weighted."""
        count, among = len(self._under.get(term, ())), len(self._documents)
        rarity = math.log(1 + (among - count + 0.5) / (count + 0.5))
        return rarity * (_KIND_WEIGHT if term.isupper() else 1.0)
