"""What asks or proposes what to do, and which turns after it decide that, or reject it; pure.

A short answer to a question of what to do decides it, and a turn that only accepts decides what was proposed: *Shall we
take the night bus?* - *Yes.* Facts that are asked for, hesitation, and answers that ask in return decide nothing.
"""

import re

from twinhost.unified_memory_reasoning.conversations.wording import any_of, plain, sentences_of

# A short turn of these words alone accepts what was proposed before it; one of the first line is among them.
_ACCEPTING = frozenset(
    """yes yep yeah yup ok okay oks okie sige cge osige oo opo sure fine great perfect good deal agreed agree game g go
    tara payag approved done sold call ayos yun yan definitely absolutely works sounds in pwede
    puwede confirmed""".split()  # noqa: SIM905
)
_BESIDE_ACCEPTING = frozenset(
    """po ho na nga lang ako kami tayo ko sa akin amin samin then ha that it do let's for with by to me us all of course
    i i'm we we're am are is please guys this lahat haha naman din rin diyan dyan too again right very plan that's so
    see you let count and ah ay o oh sya everyone everybody""".split()  # noqa: SIM905
)
_PROPOSES = any_of(r"""
    \bi (?:vote|say) (?:that )?we\b
    |\bpu?wede(?: na)?(?: po)? (?:ba|bang|kaya)\b(?!(?: po)? (?:mo|nyo|ninyo|paki\w*|\w+ (?:ka|kayo|mo)\b))
    ^(?:\w+,? )?(?:let's|let us) (?!<state>\b|not\b)|\b(?:what if|why don't|why not)\b|\btara\b|\bmungkahi\b
    \bi (?:suggest|propose|say we|move that)\b|\b(?:we|you) (?:could|should)\b
    |\bi(?:'ll| can| will) .* if you\b|\b(?:proposal|suggestion):
    \b(?:na lang|muna|kaya)(?: po)? (?:tayo(?:ng)?|nating?)\b
""")
_ASKS_ALL = any_of(r"""
    \b(?:are|is|all) (?:we|you|everyone|everybody|both|that)\b.*\b(?:ok(?:ay)?|fine|happy|good|agreed|in|set)\b
    \bsuits? (?:you|every|all)|\b(?:ok|okay|fine|all ?right|good) (?:with|by|for) (?:you|every|all)
    \ball in favou?r\b
    |\b(?:ok|okay|payag|papayag|game|g|tuloy|go)(?: na| lang)?(?: po)? (?:ba|ka|kayo|tayo|lahat|sa inyo)\b
    ^(?:settled|agreed|deal|ok(?:ay)?|everyone (?:happy|agreed?))\?|\bikaw na\b
""")
_ASKS_WHAT_TO_DO = any_of(r"""
    \b(?:should|shall) (?:we|i)\b|\b(?:will|can|do) we\b(?! (?:have|know|need|still)\b)|\bshould \w+
    \bwould you (?:like|rather|prefer|take)\b|\bdo you (?:want|prefer)\b|\bwhich (?:one|do you|would you|should)
    \b(?:what|which|who|where|when|how)\b.*\bdo you (?:keep|take|choose|pick|use|go for)\b
    \b(?:what|which|who|where|when|how)\b.*\b(?:are we \w+ing|going to be)
    \b(?:what|which|who|where|when|how)\b.*\b(?:(?:we|you) (?:will|going|want|take|use|decided?))
    \b(?:what|how) about\b|\bor\b|^who \w+s\b
    |\bwho(?:(?:'s| is) \w+ing|'ll| will| wants to)\b|\byour (?:pick|choice)|\bdeal\b
    \b(?:tayo(?:ng)?|nating?|gusto)\b| o (?!kaya)|\bpa?ano (?:yung|kung)
    |\bsino\b.*\b(?:pa rin|captain|bahala)|\bi?tutuloy
    ^(?:and |so |e |eh )?(?:anong|aling|ilang|what|which) (?!oras na)\w+\?$
    |\bmay \w+(?: \w+)? na(?: po)? ba(?:ng)? (?:kayo|tayo)\b
    \bmagkano\b.*\b(?:bawat|kada|ambag\w*|hati\w*)\b
    \bituloy|^(?:and |so )?(?:which|what|whose) \w+(?: \w+)? for\b|\b(?:what|where|when|how|which) to \w+
    \b(?:ilan|ilang|sino|sinong|saan|kailan|kelan|alin|aling|ano|anong)\b.* <will>|\b(?:pasya|desisyon)\b
""")
_QUESTION = any_of(r"""
    \?$|\bba(?:ng)?\b
    ^(?:so |and |but |ok )?(?:what about|who|which)\b|, who \w+s\b
    ^(?:so |and |but |ok )?(?:what|where|when|how|why|who|which)(?: \w+)? (?:do|should|shall|will|can|are) (?:we|i)\b
    ^(?:so |and |but |ok )?(?:will|shall|should|do|does|can) (?:we|i|he|she|it|they|the|you)\b
""")
_ASKS_TO_DECIDE = re.compile(r"\b(?:please|someone|somebody|can you|you|paki)[ -]?(?:please )?(?:decide|choose|pick)\b")
_ELSEWHERE = re.compile(  # what answers with a fact, or with none, begins with
    r"^(?:hm+,? |um+,? |well,? )?(?:no\b(?!,? (?:\w+ ){0,3}\w+,)|i (?!want|take|choose|pick)|they|she|he|it|"
    r"you(?:'re|'ve)?(?! (?:do|take|get|bring|write|go|drive|cook|keep|lead|play|call|ask|buy|make|book|and)\b)|"
    r"we (?:had|have|were)|because|(?:hindi|di|d)(?! na\b|, (?!pa|ko|ako)\w)|gusto|nothing|since|ako(?!,)|not|let me|"
    r"let's (?:ask|see|wait|think|check|talk|find)|depende|depends|wait|teka|sandali|saglit|ewan|bahala|any|"
    r"either|whatever|kahit|no idea|sorry|check|tingnan|tanong\w*|i'm|i'll|i'd|good question|"
    r"that's (?!fine|ok|good|great))\b"
)
_NO = re.compile(
    r"^no\b[,.!]? ?(?!idea|i\b|it\b|he\b|she\b|they\b|we (?:can't|don't|have)|not yet|because|why|thank|,)(?:\w|$)"
)
_YES = re.compile(r"^(?:yes|yep|yeah|oo|opo|ok(?:ay)?|sure)(?: nga| po)?[.!]*$")
_ASKS_WHICH = re.compile(r"\b(?:what|who|which|where|when|how|sino|anong?|kailan|kelan|saan|paano|alin|ilan)\b")
_ASKS_WHETHER = re.compile(r"^(?:so |ok,? |and )?(?:(?:should|shall|do) (?:we|i)|should (?:the|it|they))\b")
_ASKS_A_FACT = re.compile(  # or what was done
    r"\bmagkano ba\b|\b(?:kahapon|kanina|kagabi|noong?|nung|yesterday|last (?:night|week|month|year|time))\b|"
    r"^(?:\S+ ){0,2}(?:is|are|was|were) (?:the(?!.* going to be)|there|it(?! the\b.*\bor\b)|he|"
    r"she|they|that|this|your|my)\b|"
    r"^(?:\S+ ){0,2}(?:did|does|has|have) (?:the|there|it|he|she|they|that|this|your|you|we|i)\b|"
    r"\bhow (?:much|many|long|far|old)\b(?!.*\b(?:should|shall|will|do) we\b)"
)
_REJECTS = re.compile(
    r"^(?:hm+,? |um+,? |sorry,? )?(?:no|nope|nah|ayoko|ayaw ko|(?:hindi|di|d) (?:pu?wede|ako|ko)|wag|huwag|i can't|"
    r"i won't|i'd rather not|i'm against)\b(?! (?:problem|worries|idea|rush))"
)
_REASON = re.compile(r"(?:,| -+| \u2013) |(?:^|,? )(?:because|kasi|basta|para)\b")  # what follows an acceptance
_OFFERS = re.compile(r"\b(?:or|o)\b(?! (?:so|kaya|more|less)\b)")
_SHORT = 14  # words of an answer
_said = re.compile(r"[\w']+")


def proposal_in(text: str) -> str:
    """Return the last sentence of a text that asks or proposes what to do; empty if none does."""
    return next((each for each in reversed(sentences_of(text)) if _asks(plain(each)) or _proposes(plain(each))), "")


def answers(words: str, previous: str) -> bool:
    """Return whether a sentence, as `plain` returns it, answers a question of what to do."""
    questions = [plain(each) for each in sentences_of(previous)]
    if len(words.split()) > _SHORT or not (any(map(_asks, questions)) or _picks(words, questions)):
        return False
    if _YES.search(words) and any(map(_ASKS_WHICH.search, questions)):
        return False
    return bool(_NO.search(words) and any(map(_ASKS_WHETHER.search, questions))) or not _ELSEWHERE.search(words)


def _picks(words: str, offers: list[str]) -> bool:
    """Return whether an answer begins with one of several things that were offered, and nothing else."""
    chosen = {word for word in _said.findall(_REASON.split(words, maxsplit=1)[0]) if len(word) > 2}
    open_offers = (each for each in offers if _OFFERS.search(each) and not _ASKS_A_FACT.search(each))
    return bool(chosen) and any(chosen.issubset(_said.findall(each)) for each in open_offers)


def accepts(words: str, previous: str) -> bool:
    """Return whether a sentence, as `plain` returns it, only accepts what was proposed at the end of what precedes."""
    words = _REASON.split(words, maxsplit=1)[0]
    said, before = _said.findall(words), set(_said.findall(plain(previous)))
    if len(said) > _SHORT or _ACCEPTING.isdisjoint(said[:4]):
        return False
    if not all(each in _ACCEPTING or each in _BESIDE_ACCEPTING or each in before for each in said):
        return False
    return any(map(_proposes, map(plain, sentences_of(previous)[-2:])))


def rejects(text: str, previous: str) -> bool:
    """Return whether a text begins by rejecting what was proposed before it."""
    return _REJECTS.search(plain(text)) is not None and any(map(_proposes, map(plain, sentences_of(previous)[-2:])))


def _asks(sentence: str) -> bool:
    asked = _QUESTION.search(sentence) and _ASKS_WHAT_TO_DO.search(sentence) and not _ASKS_A_FACT.search(sentence)
    return bool(asked or _ASKS_TO_DECIDE.search(sentence))


def _proposes(sentence: str) -> bool:
    if _QUESTION.search(sentence) and (_ASKS_ALL.search(sentence) or _ASKS_WHETHER.search(sentence)):
        return True
    return _PROPOSES.search(sentence) is not None
