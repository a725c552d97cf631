"""Which sentences of a text state a decision, which propose one, and which take one back, by stated rules.

A sentence states a decision if it has what mostly decisions have (*we agreed*, *let's*, *napagkasunduan*, *na lang*),
if its grammar is that of a commitment, if it is the short answer to a question of what to do, or if it has two weaker
signs (a replacement, a day, *ok* or *sige* before it). It states none if it asks, requests, denies, doubts, supposes,
or repeats what others say, if it takes a decision back, or if it or the next sentence says that nothing is decided.
Words are English and Filipino, whole, in any case.

Commitments by grammar: `we` before a verb that is no state, after *so*, or with *will*; *from now on* and *effective
May*. In Filipino the actors *tayo* and *natin* after a verb, and *na*, which says that something is otherwise now,
after a place (*sa Pila na tayo*), a date (*Mayo 2 na*), or before *ang* (*si Mara na ang gaganap*). A finished event
(*dumating na*) is none.

A short answer to a question of what to do decides it, and a turn that only accepts decides what was proposed: *Shall we
take the night bus?* - *Yes.* Facts that are asked for, hesitation, and answers that ask in return decide nothing.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from twinhost.unified_memory_reasoning.language.lexicon import STOP_WORDS
from twinhost.unified_memory_reasoning.language.lexicon import words as word_list
from twinhost.unified_memory_reasoning.language.patterns import any_of, lines_of
from twinhost.unified_memory_reasoning.language.text import plain, sentences_of

DECIDING_CHARACTERS = 4_096  # of an interaction, in which decisions are looked for

_DECIDES = any_of(r"""
    \b<we>(?:'ve|'re|'s)?(?: have| has| had| all| both| just| finally| of us)* <decided>\b
    \b(?:'s|is|are|was|were|been|all|now|already) (?:now |all )?(?:<decided>|final|done|official|unanimous)\b
    ^(?:<decided>|deal|done deal|booked|final|sold|count me in|go ahead|go for it|do it|book it|plan:)\b(?! \w+ed\b)
    \bsaid yes\b|\b(?:sang-ayon|payag)\b.*\blahat\b|\blahat\b.*\b(?:sang-ayon|payag)\b
    \bwe (?:now )?have an? (?:\w+ )?(?:winner|date|plan|deal|name|venue|theme|decision|agreement|place|consensus)\b
    \bfinal(?: \w+){0,2}:|^(?:ok(?:ay)? |so |here's )*(?:the |our |new )*(?:plan|menu|schedule|arrangement|set-?up):
    \bw[io]ns?\b.*\bvotes?\b|\bvotes?\b.*\bw[io]ns?\b|\b(?:lock|locked|locking) (?:it )?in\b|\bdone deal\b
    ^(?!(?:he|she|my \w+|his \w+|her \w+|their \w+)\b).*\b(?:went|going|sticking|proceeding) with\b
    \bnag-?(?:decide|agree|settle|finalize)\b
    |\b(?:kasado|plantsado|pinal|sigurado|set|sure) na\b|\bbumoto na\b
    |\b(?:nahalal|itinalaga|hinirang|napagkaisahan)\b
    \b(?:let's|let us) (?!<state>\b|not\b)\w
    \bwe(?:'ll| will) (?!<state>\b)\w|\b(?:we're|i'm|we are|i am) (?:not )?going (?:to (?!<state>\b)|with|for)\b
    \bwe(?:'re| are) <doing>\b
    \bi(?:'ll| will) (?:take|have|go|do|keep|use|book|order|buy|get) (?:the|it|that|this|those|one|with|for|my|both)\b
    (?<!\bhe )(?<!\bshe )(?<!\bwho )\b(?:(?:is|are|was) moved|moves?|shifts?|slips) (?:back |over |forward )?(?:in)?to\b
    |\bno more \w+ing\b|\bthat's (?:that|what we)\b|^(?:so |ok,? |okay,? )?no more [\w-]+s\b
    \bas (?:agreed|decided|we said)\b|\bthat settles\b|\bunanimous\b
    (?:^|[,;:] |then |so |and |but )we(?:'re| are) (?:not |no longer )?<doing>\b
    (?:^|[,;:] |then |so |and |but |also |tsaka |saka )i(?:'m| am) (?:not )?<commit>\b(?! <idle>\b)
    (?:^|[,;:] |then |so )(?:and )?we (?:just |simply |both )?(?!<stative>\b|\w+ed\b|play\b)\w
    \bso,? (?:from|this|next|for|on|in|after|until) (?:\S+ ){1,4}we (?!<stative>\b|\w+ed\b)\w
    (?:^|, )(?:then |so |right,? |ok,? )?<pick> (?!care|me\b|up\b|your time|it easy)
    (?:^|, )(?:then |so |right,? |ok,? )?(?:go|stick) (?:with|to)\b
    ^then (?!<question>\b|you can|i (?:need|will)|leave|it\b|that|there|this|one day|the (?!\d))\S+ \S+
    ^(?!that's|it's|i\b)[^?]{1,40}\bthen[.!]?$|^[^?,]{1,40} then,
    [^ ] (?<!as )(?<!how )(?<!what )(?<!that )(?<!where )(?<!yes )(?<!so )(?<!no )it (?:is|stays)(?:,? then\b|[,.!]|$)
    \b(?:is|are|stays?) (?:in|out)[.!]?$|\b(?:stays|goes)(?:[,.!]|$)
    <from_then>|\bvotes?d?\b.* \d+ (?:to|-) ?\d
    ^(?:the |our )?verdict\b|\bganito(?: na lang)?:|^(?:g|game|deal|go|set) na\b
    \b(?:confirmed|approved|locked|booked|settled) na\b
    ^(?:ok,? |so )?(?:i|we)(?:'ve| have)? (?:accepted|declined|rejected|signed|resigned|enrolled|cancelled)\b
    \b(?:settled|final|tuloy|go|(?:okay|ok)(?= na(?:[,.:!]|$))) na\b(?!.*\bba\b)
    \baprub|\baprobado|\bdesidido\b|\bnapili\b|\bpinili\b
    \b(?:napag|pinag)-?(?:kasundu|desisy|pasya|usapan na|botohan)\w*
    \bnagkasundo|\bnag(?:pasya|desisyon)\b|\bpinagpasyahan\b
    \bang (?:desisyon|pasya)\b|\b(?:desisyon|pasya) (?:<natin>|ko)\b|\bbuo na ang\b
    \b(?:na|pa rin|muna|lang)<po> (?:tayo|natin)\b|^(?:\S+ ){1,3}tayo[.!]?$|\b(?!na|beses)\w+ nating\b
    \b(?!ka\w+an\b)(?:i\w+|\w+(?:in|an))<po>(?: na)?<po> (?:natin|namin)\b
    \b(?:hindi|di) na (?:po )?(?:<natin>|tayo|kami|ako|ko) (?!maka)<will>
    \b(?:piliin|kunin|kukunin|gawin|gagawin|bilhin|bibilhin|gamitin)(?: na)?(?: lang)?(?: ko| <natin>)\b
    \b(?<!hindi )(?<!di )tuloy (?:tayo|ang|pa rin)\b|(?<!buti )\bna(?: po| nga)? ?lang\b|\bimbes\b|\bbawal na\b
    \bgan(?:u|o|it)n? na\b|\bako na (?:ang )?(?:bahala|mag\w+)|\bsa halip\b|\bayoko na\b
    <clause><there> (?!susunod|nakaraan|isang|unang)(?:\S+ ){0,3}?na (?:po )?(?:\S+ ){0,5}?<actor>
    <clause>(?:<month> \d\d?|\d\d? <month>) na\b
    <clause><who> (?:\S+ ){0,3}?(?:na|muna)(?: po)?(?: ni \w+)? (?:ang|yung) (?!na|may|pinaka)\w
    <clause><there> (?:[^\s,]+ ){1,3}tayo\b(?! (?:na|um))
    \b(?:of us|and i|you and me) (?:will|are <doing>)|\b(?:of us|and i)'ll\b
    <clause>we(?:'ve| have)? <changed>\b(?! (?:here|in|back|house)\b)|\b<binago> (?:na )?(?:po )?<natin>\b
    , so (?!<nobody>\b)[a-z]+ \w+s (?:the|our|on|in|at|to|over|for|as|up|down)\b
    \bwe(?:'re| are) back (?:to|at|on|with|in)\b|\bso,? i (?:keep|take|quit|stay|sell|drop|skip|go|move|switch)\b
    <clause>(?:and )?i (?:quit|resign|accept|decline|withdraw|choose|opt|give up)\b
    <clause>(?!<no_verb>\b)[\w-]+(?: na| muna| lang)* tayo <there>\b
    \b<fine>(?: na)? (?:ako|kami)(?:ng \w+)?(?: na| po)* <there>\b
    \b(?:steps|fills|stands) in\b|\btakes over\b|\bbalik (?:na )?(?:tayo |kami )?sa \d
    ^(?:ok,? |sige,? |o sya,? )?(?:si|kay|ako|ikaw|kami) (?:\w+ ){0,2}?na(?:[.!,]|$| (?:po|ang|muna|<will>)\b)
""")
_SIGNS = lines_of(r"""
    \bthen\b|^so\b
    \binstead\b|\brather than\b|\bno longer\b|\bnot \w+ but\b|\bin place of\b|, hindi \w+
    ^(?:right[:,]? |ok,? |so |and |then )*no (?!\w+ing|one|idea|problem|worries|need|i\b|it\b|they\b|we\b|but\b)\w+
    <clause>(?!(?:\S+ ){0,2}?<past>)(?:[^,]* )??(?:na|pa rin)<po> (?:ang|yung|si|sa|ako|ko|kami)\b|\bna nga\b
    \bpumayag\b|\bpayag\b|\bsang-ayon\b|\bsaid (?:yes|ok)\b|\b(?:is|are) (?:fine|ok|happy) with\b
    \bi've (?:booked|ordered|reserved|signed)|\bbooked\b
    (?<![\w-])(?:<day>|<month> \d|\d\d?(?:st|nd|rd|th)?(?: of)? <month>|\d ?(?:am|pm)|\d{1,2}:\d\d|alas-\w+)(?![\w-])
    <clause>(?!it|that|this|which|who)(?:the )?[a-z]+ <does>\b
""")
_AGAINST = any_of(r"""
    \b(?:dapat|last (?:time|year|week)|kanina|kahapon|noon|nung|noong|yesterday|dati|buti|sana|ago|already|daw|raw)\b
""")
_HAPPENED = any_of(r"^(?:<ok> )?<past> (?:na kami(?:ng)?\b[^,]*, |(?:ko |namin |ako |kami )?na\b[^,]*, (?=so |kaya ))")
_AGREES_WITH_A_FACT = re.compile(r"^(?:yes|yep|yeah|oo|opo|right)\b")
_TAG = re.compile(r"\b(?:settled|agreed|deal|ok(?:ay)?|all right|everyone happy|di ba|diba|game|g|ha)\?$")
_AFFIRMS = re.compile(
    r"^(?:ay |ah |o |oh )?(?:ok(?:ay|s)?|k|sige|cge|osige|oo|yes|yep|yeah|fine|right|al?l ?right|good|sure|go|perfect|"
    r"great|sya|game|deal|ayos|approved)\b(?! lang| news| morning| night| evening| luck)"
)
_REQUESTS = re.compile(r"\b(?:can|could|would|will) you\b|\bpu?wede (?:mo|nyo|ninyo|ka|kayo)\b|\bpaki\w+")
_SAYS_NOT = any_of(r"""
    (?:\b<not>(?:'s)?|n't)\b(?: \S+){0,4} (?:<decided>|decide|<undecided>)\b|\b(?:on|about) nothing\b
    \b(?:<not>|wala pa|ayaw)\b(?: \S+){0,3} \w*(?:kasund[ou]|desisy[ou]n|pasya|final|sigurado|pili|usapan|plano)
""")
_OTHERWISE = any_of(r"""
    \?\W*$|\bba\b|\bbang\b
    ^(?:so |and |but |eh |e )?<question>\b(?! ka\b| pa rin| na lang)
    \b(?:hindi|di|d)(?: \w+){1,2} maka|\b(?:hindi|di|d|wala|wla) pa(?:ng)?\b|\b<not> (?:\S+ )?(?:muna)\b
    \b(?:maybe|perhaps|might|(?:we|i) may|probably|could|would|wish|if|unless|whether|in case)\b
    ^(?:<ok> )?<past> (?:ko |namin |kami |ako )?na\b
    \b(?:lagi|palagi) na\b|\blang (?:lagi|palagi)\b
    |\bi (?:don't|can't|do not|cannot) (?:know|understand|remember|decide|tell)\b
    \b(?:araw|linggo|buwan|taon|oras|minuto|days?|weeks?|months?|years?|hours?|minutes?|percent|%) na lang\b
    \b(?:\w?um|mag-?|ma)\w+ (?:ka|kayo)(?: na)?(?: lang| muna)\b|\bkailangan (?:pa |muna |pang )?(?:<natin>|ko(?:ng)?)\b
    , (?:take|keep|use|make|pick)\b.*\bplease\b|\bas usual\b|\bthe same \w+ every\b
    ^tell \w+|\blet me know\b|\b(?:what|when|whether|how|who|where) (?:you|they)(?: have| had|'ve)? <decided>\b
    \b(?:told (?:me|us)|(?:sabi|ayon) (?:ni|kay|nila|niya|ng|sa)|\w+ says|i heard)\b(?!.*, (?:so|then|kaya)\b)
    \bno idea\b|\b(?:claims?|rumou?rs?|allegedly|apparently|supposedly|imagine|suppose|supposing|torn between)\b
    \b(?:baka|siguro|kung(?! gano?n)|sana|(?<!yung )parang|yata|ata|kapag|pwede|puwede|para na)\b
    \b(?:(?<!nag-)decide|discuss|pending|remind|wonder|almost|nearly|magdesisyon)\b
    |\b(?:pag-?(?:usapan|isipan)|mag-?usap|magkasundo)\b
""")
_WITHDRAWS = any_of(r"""
    \b(?:is|are|it's|that's|was) (?:now )?(?:off(?! (?:limits|to|sick)\b)|cancel+ed|called off)\b
    \b(?:hindi|di|d|wag|huwag)(?: (?:na|<natin>|ko|tayo|kami|muna|po))* (?:i?(?:tu)?|matu)tuloy
    \bkansel\w+|\bcancel\w*|\bipagpaliban\b|\bbinabawi\b|\bwag muna\b|\bcall (?:it|the \w+) off\b|\bcalled off\b
    \bi withdraw\b|\bwithdrawn\b|\btake (?:it|that) back\b|\bchanged (?:my|our) minds?\b
""")
_REPLACES = any_of(r"""
    <from_then>|\bafter all\b|\b(?:steps|fills) in\b|\btakes over\b|\bbalik (?:na )?(?:tayo |kami )?sa\b
    \binstead\b|\brather than\b|\bno longer\b|\bnot \w+ any ?more\b|\bin place of\b|\bactually\b|\bscrap\b
    \b(?:ni)?reject\w*|\bon second thought|^(?:hm+,? |ok,? )?not \w+,
    ^(?:ok,? |so |right: )?no \w+|\bchange of plan|\bpala\b|\bimbes\b|\bsa halip\b|\bayoko na\b
    \b(?:wag|huwag|hindi|di) na\b
""")
_INSTEAD = re.compile(r", | so | kaya ")  # after what is withdrawn
_NEGATED = re.compile(r"\b(?:not|no|hindi|di|wag|huwag|pag|when|until)\b|n't\b")
_REFERS_BACK = re.compile(
    r"\b(?:take|scratch|scrap|forget|withdraw|cancel|undo) (?:it|that)\b|\btake it back\b|\bnever ?mind\b|"
    r"\bbinabawi ko\b(?: na| po| yan| yun| yon)*(?:[.!,]|$)"
)
_word = re.compile(r"\w{3,}|\b[A-Z0-9]{2,}\b|\d+")
_OWNER = re.compile(r"\bni(?:na)? \w+")  # whose it is: *pinsan ni Paolo* is not about Paolo
_STEM = 6  # characters by which words are compared: sublet, subletting
_ENOUGH = 2  # signs
_OPENING = 2  # sentences that an *ok* before them is about
# A short turn of these, of stop words and of the proposal's words accepts it; one of these is among the first words.
_ACCEPTING = word_list("""
yes yep yeah yup ok okay oks okie sige cge osige oo opo sure fine great perfect good deal agreed agree game g go
tara payag approved done sold call ayos yun yan definitely absolutely works sounds in pwede
puwede confirmed
""")
_PROPOSES = any_of(r"""
    \bpu?wede(?: na)?(?: po)? (?:ba|bang|kaya)\b(?!(?: po)? (?:mo|nyo|ninyo|paki\w*|\w+ (?:ka|kayo|mo)\b))
    ^(?:\w+,? )?(?:let's|let us) (?!<state>\b|not\b)|\b(?:what if|why don't|why not)\b|\btara\b|\bmungkahi\b
    \bi (?:suggest|propose|say we|move that)\b|\b(?:we|you) (?:could|should)\b
    |\bi(?:'ll| can| will) .* if you\b|\b(?:proposal|suggestion):
""")
_ASKS_ALL = any_of(r"""
    \b(?:are|is|all) (?:we|you|everyone|everybody|both|that)\b.*\b(?:ok(?:ay)?|fine|happy|good|agreed|in|set)\b
    \bsuits? (?:you|every|all)|\b(?:ok|okay|fine|all ?right|good) (?:with|by|for) (?:you|every|all)
    \b(?:ok|okay|payag|papayag|game|g|tuloy|go)(?: na| lang)?(?: po)? (?:ba|ka|kayo|tayo|lahat|sa inyo)\b
""")
_ASKS_WHAT_TO_DO = any_of(r"""
    \b(?:should|shall) (?:we|i)\b|\b(?:will|can|do) we\b(?! (?:have|know|need|still)\b)|\bshould \w+
    \bwould you (?:like|rather|prefer|take)\b|\bdo you (?:want|prefer)\b|\bwhich (?:one|do you|would you|should)
    \b(?:what|which|who|where|when|how)\b.*\bdo you (?:keep|take|choose|pick|use|go for)\b
    \b(?:what|which|who|where|when|how)\b.*\b(?:are we \w+ing|going to be)
    \b(?:what|how) about\b|\bor\b|^who \w+s\b
    |\bwho(?:(?:'s| is) \w+ing|'ll| will| wants to)\b|\byour (?:pick|choice)|\bdeal\b
    \b(?:tayo(?:ng)?|nating?|gusto)\b| o (?!kaya)|\bpa?ano (?:yung|kung)
    ^(?:and |so |e |eh )?(?:anong|aling|ilang|what|which) (?!oras na)\w+\?$
    |\bmay \w+(?: \w+)? na(?: po)? ba(?:ng)? (?:kayo|tayo)\b
    \bituloy|^(?:and |so )?(?:which|what|whose) \w+(?: \w+)? for\b|\b(?:what|where|when|how|which) to \w+
    \b(?:ilan|ilang|sino|sinong|saan|kailan|kelan|alin|aling|ano|anong)\b.* <will>|\b(?:pasya|desisyon)\b
""")
_QUESTION = any_of(r"""
    \?$|\bba(?:ng)?\b
    ^(?:so |and |but |ok )?(?:what about|who|which)\b|, who \w+s\b
    ^(?:so |and |but |ok )?(?:will|shall|should|do|does|can) (?:we|i|he|she|it|they|the|you)\b
""")
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
_ELLIPTIC = 8  # of one that needs its question to be understood
_said = re.compile(r"[\w']+")


@lru_cache(maxsize=16)  # the importance of a text and its summary ask for the same
def decisions_in(text: str, previous: str = "") -> tuple[str, ...]:
    """Return the sentences of a text that state a decision, also by answering what somebody else said just before."""
    return tuple(_decisions_in(text, previous))


def _decisions_in(text: str, previous: str) -> Iterator[str]:
    sentences = sentences_of(text)
    searched = [_HAPPENED.sub("", plain(sentence)) for sentence in sentences] or [""]
    agrees = _AFFIRMS.search(searched[0]) is not None
    accepts = _accepts(searched[0], previous)
    known = (agrees or accepts) and _names_in(previous).isdisjoint(_names_in(text)) and any(decisions_in(previous))
    decided = _answers(searched[0], previous) or (not known and accepts)
    agrees = agrees and not known and not (_agrees_to_else(searched[0], plain(previous)) and not proposal_in(previous))
    closing = searched[-1].endswith("?") and (1 if _TAG.search(searched[-1]) else -1)
    denied = [bool(_SAYS_NOT.search(words)) for words in (*searched, "")]
    for place, (sentence, words) in enumerate(zip(sentences, searched, strict=False)):
        answer = place == 0 and decided
        if denied[place] or denied[place + 1] or _OTHERWISE.search(words):
            continue
        if _WITHDRAWS.search(words) and not answer:
            if _decides_again(words):
                yield sentence
            continue
        signs = closing + sum(bool(sign.search(words)) for sign in _SIGNS) - len(_AGAINST.findall(words))
        signs += agrees and place < _OPENING and " " in words
        if answer or signs >= _ENOUGH or _DECIDES.search(words):
            yield sentence


def _decides_again(words: str) -> bool:
    """Return whether a sentence that withdraws says after it what is done instead."""
    instead = "".join(_INSTEAD.split(words, maxsplit=1)[1:])
    return not (_WITHDRAWS.search(instead) or _NEGATED.search(instead)) and _DECIDES.search(instead) is not None


def _agrees_to_else(words: str, previous: str) -> bool:
    """Return whether an *ok* answers a request, or a *yes* a question of a fact."""
    return "?" in previous and bool(_AGREES_WITH_A_FACT.search(words) or _REQUESTS.search(previous))


def withdrawal_in(text: str) -> str:
    """Return what a text takes back or replaces, in its words; empty if nothing.

    It is the sentence that does so, and the one before it where one is withdrawn: *That agreement is off.*
    """
    sentences, withdrawn = ["", *sentences_of(text)], list[str]()
    for before, sentence in itertools.pairwise(sentences):
        words = plain(sentence)
        if words.endswith("?"):
            continue
        if _WITHDRAWS.search(words):
            withdrawn += [before, sentence]
        elif _REPLACES.search(words):
            withdrawn.append(sentence)
    return " ".join(withdrawn).strip()


def replaced_by(withdrawal: str, decisions: Sequence[str]) -> int | None:
    """Return the place of the one of some decisions that a withdrawal is about; None if of none.

    It is the one that shares most words that name things with it, of several the last; of decisions that share none the
    last, if the withdrawal says *that* or *it*.
    """
    named = _names_in(withdrawal)
    shared = [len(named & _names_in(decision)) for decision in decisions]
    most = max(shared, default=0)
    if not decisions or not (most or _REFERS_BACK.search(plain(withdrawal))):
        return None
    return max(place for place, common in enumerate(shared) if common == most)


@lru_cache(maxsize=1_024)  # a summary compares each withdrawal with each decision
def _names_in(text: str) -> frozenset[str]:
    """Return the words of a text that name things, by their beginnings: of 3 letters, a number, or in capitals."""
    words = map(str.casefold, _word.findall(_OWNER.sub("", text)))
    return frozenset(word[:_STEM] for word in words if word not in STOP_WORDS)


def proposal_in(text: str) -> str:
    """Return the last sentence of a text that asks or proposes what to do; empty if none does."""
    return next(
        (sentence for sentence in reversed(sentences_of(text)) if _asks(plain(sentence)) or _proposes(plain(sentence))),
        "",
    )


def needs_question(decision: str, previous: str) -> bool:
    """Return whether a decision is a short answer, which is not understood without the question before it."""
    words = plain(decision)
    return len(words.split()) <= _ELLIPTIC and (_answers(words, previous) or _accepts(words, previous))


def _answers(words: str, previous: str) -> bool:
    """Return whether a sentence, as `plain` returns it, answers a question of what to do."""
    questions = list(map(plain, sentences_of(previous)))
    if len(words.split()) > _SHORT or not (any(map(_asks, questions)) or _picks(words, questions)):
        return False
    return bool(_NO.search(words) and any(map(_ASKS_WHETHER.search, questions))) or not _ELSEWHERE.search(words)


def _picks(words: str, offers: list[str]) -> bool:
    """Return whether an answer begins with one of several things that were offered, and nothing else."""
    chosen = {word for word in _said.findall(_REASON.split(words, maxsplit=1)[0]) if len(word) > 2}
    open_offers = (offer for offer in offers if _OFFERS.search(offer) and not _ASKS_A_FACT.search(offer))
    return bool(chosen) and any(chosen.issubset(_said.findall(offer)) for offer in open_offers)


def _accepts(words: str, previous: str) -> bool:
    """Return whether a sentence, as `plain` returns it, only accepts what was proposed at the end of what precedes."""
    words = _REASON.split(words, maxsplit=1)[0]
    said, before = _said.findall(words), set(_said.findall(plain(previous)))
    if len(said) > _SHORT or _ACCEPTING.isdisjoint(said[:4]):
        return False
    if not all(word in _ACCEPTING or word in STOP_WORDS or word in before for word in said):
        return False
    return any(map(_proposes, map(plain, sentences_of(previous)[-2:])))


def rejects(text: str, previous: str) -> bool:
    """Return whether a text begins by rejecting what was proposed before it."""
    return _REJECTS.search(plain(text)) is not None and any(map(_proposes, map(plain, sentences_of(previous)[-2:])))


def _asks(sentence: str) -> bool:
    asks = _QUESTION.search(sentence) and _ASKS_WHAT_TO_DO.search(sentence) and not _ASKS_A_FACT.search(sentence)
    return bool(asks)


def _proposes(sentence: str) -> bool:
    if _QUESTION.search(sentence) and (_ASKS_ALL.search(sentence) or _ASKS_WHETHER.search(sentence)):
        return True
    return _PROPOSES.search(sentence) is not None
