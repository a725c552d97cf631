"""Which sentences of a text state a decision, and which take one back, by stated rules; pure.

A sentence states a decision if it has what mostly decisions have (*we agreed*, *let's*, *napagkasunduan*, *na lang*),
if it is the short answer to a question of what to do, or if it has two weaker signs (a replacement, a day, *ok* or
*sige* before it). It states none if it asks, requests, denies, doubts, or supposes, if it takes a decision back, or if
it or the next sentence says that nothing is decided. Words are English and Filipino, whole, in any case.
"""

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache

from twinhost.unified_memory_reasoning.conversations.context_text import LINE_BREAKS

# In the patterns, <name> stands for the words of that name; each line is one, or goes on with the one before after `|`.
_WORDS = {
    "day": "to(?:day|night|morrow)|bukas|ngayon|mamaya|next|(?:mon|tues|wednes|thurs|fri|satur|sun)day|lunes|martes|"
    r"miyerkules|huwebes|biyernes|sabado|linggo",
    "date": r"\w{3,9} \d\d?|\d\d?(?:st|nd|rd|th)",
    "we": "we|i|they|both|all|every(?:one|body)|board|council|committee|team|family",
    "state": "see|look|think|tell|let|ask|try|check|know|need|have|be|want|wait|hope|say|talk|find|never|always|had|"
    "get",
    "stative": "<state>|can|could|did|do|should|must|were|are|will|would|got|only|just|also|still|all|already|may|"
    "might|used|miss|like|love",
    "doing": r"(?!(?:look|think|try|wonder|hop|wait|work|runn|hav|be|feel|talk|ask|sitt|say|mean|com|gett|ly|stand|"
    r"writ|listen|read)ing\b)\w+ing",
    "decided": "decided|agreed?|settled|chose|chosen|voted|approved|picked",
    "po": "(?: (?:po|ho|nga|rin|din|daw|raw|muna|lang|naman|pala))*",
    "natin": "natin|nating|namin|naming",
    # A contemplated verb of Filipino repeats its first syllable: kukunin, gagamitin, magpapadala.
    "will": r"(?!nanay|tatay|mamaya|lola|baba)(?:mag|mang|maka|ma|ipag|i)?-?(?:([bdghklmnprstwy]?[aeiou])"
    r"\1)\w{2,}",
    "not": r"not|never|cannot|no ?one|nobody|none|neither|nothing|yet to|hindi|di|d|wala|walang|huwag|wag",
    "question": "what|who|which|where|when|why|how|did|do|does|can|could|should|shall|would|will|is|are|have|has|sino|"
    "ano|anong|kailan|kelan|saan|paano|pano|magkano|bakit|alin",
}


def _lines(patterns: str) -> list[re.Pattern[str]]:
    for name, words in reversed(_WORDS.items()):
        patterns = patterns.replace(f"<{name}>", f"(?:{words})")
    return [re.compile(line.strip(" ")) for line in patterns.strip().replace("\n    |", "|").splitlines()]


def _any(patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{line.pattern})" for line in _lines(patterns)))


_DECIDES = _any(r"""
    \b<we>(?:'ve|'re|'s)?(?: have| has| had| all| both| just| finally| of us)* <decided>\b
    \b(?:'s|is|are|was|were|been|all|now|already) (?:now |all )?(?:<decided>|final|done|official|unanimous)\b
    ^(?:<decided>|deal|done deal|booked|final|sold|count me in|go ahead|go for it|do it|book it|plan:)\b(?! \w+ed\b)
    ^(?:i'm|we're) (?:in|sold|convinced)[.!]?$
    \b(?:our|the|final|my) (?:decision|choice|verdict|plan)(?: is| was|:| stands)|\bdecision:|\bnew (?:rule|plan)\b
    \b<we>(?: all| both)? (?:said|say) yes\b|\bsang-ayon\b.*\blahat\b|\blahat\b.*\b(?:sang-ayon|payag)\b
    \bchange of plan
    \bmade up (?:my|our) minds?\b|\b\w+ to (?:one|two|three|none|\d) (?:for|in favou?r)\b|\bhere it is:
    \bhave a winner\b
    \b(?:let's|let us) (?!<state>\b|not\b)\w
    \bwe(?:'ll| will) (?!<state>\b)\w|\b(?:we're|i'm|we are|i am) (?:not )?going (?:to (?!<state>\b)|with|for)\b
    \bwe(?:'re| are) <doing>\b
    \bi(?:'ll| will) (?:take|have|go|do|keep|use|book|order|buy|get) (?:the|it|that|this|those|one|with|for|my|both)\b
    \b(?:is|are|was) moved to\b|\bthat's (?:that|what we)\b|\bno more \w+s\b
    (?:^|[,;:] |then |so |and |but )(?:we|i)(?:'re|'m| are| am) (?:not )?<doing>\b
    (?:^|[,;:] |then |so )(?:and )?we (?!<stative>\b|\w+ed\b)\w
    (?:^|, )(?:then |so |right,? |ok,? )?(?:take|make (?:it|that)|pick|choose|keep|use|drop|skip) (?!care|me\b)
    (?:^|, )(?:then |so |right,? |ok,? )?(?:go|stick) (?:with|to)\b
    ^then (?!<question>\b|i need|leave)\S+ \S+
    ^(?!that's|it's|i\b)[^?]{1,40}\bthen[.!]?$|^[^?,]{1,40} then, |\bit (?:is|shall be|stays)(?:,? then)?[.!]?$
    \b(?:is|are|stays?) (?:in|out|on)[.!]?$
    \bfrom now on\b|\b(?:starting|effective|simula|umpisa) (?:sa )?(?:<day>|<date>)\b|\bon second thought
    \b(?:settled|final|tuloy|go|okay|ok) na\b(?!.*\bba\b)|\baprub|\baprobado|\bdesidido\b|\bnapili\b|\bpinili\b
    \bnapag(?:kasundu|desisyun|pasya|usapan na|botohan)\w*|\bnagkasundo|\bnag(?:pasya|desisyon)\b|\bpinagpasyahan\b
    \bang (?:desisyon|pasya)\b|\b(?:desisyon|pasya) (?:<natin>|ko)\b|\bbuo na ang\b
    \b(?:na|pa rin|muna|lang)<po> (?:tayo|natin)\b|^(?:\S+ ){1,3}tayo[.!]?$|\b\w+ nating\b
    \b(?:i\w+|\w+(?:in|an)) (?:na |muna )?(?:natin|namin)\b
    \b(?:ga)?gamitin <natin>
    \b(?:piliin|kunin|kukunin|gawin|gagawin|bilhin|bibilhin|gamitin)(?: na)?(?: lang)?(?: ko| <natin>)\b
    \b(?<!hindi )(?<!di )tuloy (?:tayo|ang|pa rin)\b|\bna(?: po| nga)? ?lang\b|\bimbes\b|\bbawal na\b
    \bgan(?:u|o|it)n? na\b|\bako na (?:ang )?(?:bahala|mag\w+)|\bsa halip\b|\bayoko na\b
    ^(?:si|kay|yung|sa) \S+ na[.!]?$|\b(?:si|kay) \w+ na\b|\bna (?:po )?ang (?:ga)?gamitin
""")
_SIGNS = _lines(r"""
    \bthen\b|^so\b
    \binstead\b|\brather than\b|\bno longer\b|\bnot \w+ but\b|\bin place of\b|, hindi \w+
    |\b(?:wag|huwag|hindi|di) na(?:ng)? [^,]{1,40}, \S
    ^(?:right: |ok,? |so |and |then )?no (?!\w+ing|one|idea|problem|worries|need|i\b|it\b|they\b|we\b|but\b)\w+
    (?:^|, )(?:\S+ ){1,4}(?:tayo|<natin>)\b
    ^(?=.*\b(?:<natin>|tayo|kami|ako|ko)\b).*\b<will>
    \b(?:na|pa rin)<po> (?:ang|yung|si|sa|ako|ko|kami)\b|\bna nga\b
    \bwon\b|\bwins\b|\bvotes?\b|\b(?:ikaw|sya|siya) na\b|\bmag-?\w+ (?:na )?(?:ako|kami)\b
    |\b(?:can|may) have (?:the|it)\b
    \bpumayag\b|\bpayag\b|\bsang-ayon\b|\bsaid (?:yes|ok)\b|\b(?:is|are) (?:fine|ok|happy) with\b
    \bi'll (?!<state>\b)|\bi've (?:booked|ordered|reserved|signed)|\bbooked\b
    \b(?:<day>|\d ?(?:am|pm)|\d{1,2}:\d\d|alas-\w+)\b
    ^(?:the )?[a-z]+ (?:gets|goes to|takes|brings|keeps|sings|drives|collects|pays|hosts|cooks|stays)\b
""")
_AFFIRMS = re.compile(
    r"^(?:ay |ah |o |oh )?(?:ok(?:ay|s)?|k|sige|cge|osige|oo|yes|yep|yeah|fine|right|al?l ?right|good|sure|go|perfect|"
    r"great)\b(?! lang)"
)
_ASKS_WHAT_TO_DO = _any(r"""
    \b(?:should|shall|will|can|do) (?:we|i)\b|\bshould \w+
    \b(?:do|would|will) you (?:want|like|rather|prefer|take)\b|\bwhich (?:one|do you|would you|should)
    \b(?:what|which|who|where|when|how)\b.*\b(?:are (?:we|you) \w+ing|(?:we|you) (?:will|going|want|take|use|decided?))
    \b(?:what|how) about\b|\bor\b|\bwho(?:'s| is|'ll| will) \w+ing|\byour (?:pick|choice)|\bdeal\b|\bnext \w+$
    \b(?:tayo|natin|gusto)\b| o (?!kaya)|\bpa?ano (?:yung|kung)|\bsino\b.*\b(?:pa rin|captain|bahala)|\bi?tutuloy
    \bituloy
""")
_ELSEWHERE = re.compile(  # what answers with a fact begins with
    r"^(?:no\b(?! \w+,)|i (?!want|take|choose|pick)|they|she|he|it|you|we (?:had|have|were)|because|hindi|di|d|gusto|"
    r"nothing|since|ako|not\b)\b"
)
_SAYS_NOT = _any(r"""
    \b(?:no|any|wala(?:ng)?(?: pa(?:ng)?)?) (?:final )?(?:decision|desisyon|plano)\b|\bundecided\b|\bstill open\b
    \bdisagree
    \bnot an? (?:\w+ )?decision\b|\b(?:nothing|nothing's)(?: is| was)?(?: been)?(?: yet)? (?:<decided>|final)\b
    \bsleep on it\b
    (?:\b<not>|n't)\b(?: \S+){0,4} (?:<decided>|decide|settle|final|sure|approve|choose|yet|minds?)\b|\bon nothing\b
    \b(?:<not>|wala pa|ayaw)\b(?: \S+){0,3} \w*(?:kasund[ou]|desisy[ou]n|pasya|final|sigurado|pili|usapan|plano)
""")
_OTHERWISE = _any(r"""
    \?\W*$|\bba\b|\bbang\b
    ^(?:so |and |but |eh |e )?<question>\b(?! ka\b| pa rin| na lang)
    \b(?:hindi|di|d)(?: \w+){1,2} maka|\b(?:hindi|di|d|wala|wla) pa(?:ng)?\b|\b<not> (?:\S+ )?(?:muna)\b
    \b(?:maybe|perhaps|might|(?:we|i) may|probably|could|would|wish|if|unless|whether|in case)\b
    \bi(?: think| guess| suppose|'d| propose)\b
    \b(?:baka|siguro|kung(?! gano?n)|sana|parang|yata|ata|kapag|pwede|puwede|para na)\b
    \b(?:decide|discuss|pending|remind|wonder|almost|nearly|magdesisyon|pag-?(?:usapan|isipan)|mag-?usap|magkasundo)\b
    ^(?:please|can you|could you|paki\w*)\b|\bplease (?!everybody)\w+|\bpaki\w+
""")
_WITHDRAWS = _any(r"""
    \b(?:is|are|it's|that's|was) (?:now )?(?:off|cancel+ed|called off|postponed|not happening)\b
    \bscratch (?:that|my|the)\b
    \b(?:hindi|di|d|wag|huwag) na(?:ting| nating)? (?:muna )?(?:po )?(?:tuloy|ituloy|itutuloy|matutuloy)
    \bhindi tuloy\b
    \bkansel\w+|\bcancel\w*|\bipagpaliban\b|\bbinabawi\b|\bwag muna\b|\bcall (?:it|the \w+) off\b|\bcalled off\b
    \btake (?:it|that) back\b|\bchanged my mind\b|\bforget (?:about )?(?:the|that)\b
""")
_REPLACES = _any(r"""
    \binstead\b|\brather than\b|\bno longer\b|\bnot \w+ any ?more\b|\bin place of\b|\bactually\b|\bscrap\b
    \b(?:ni)?reject\w*
    ^(?:ok,? |so |right: )?no \w+|\bchange of plan|\bpala\b|\bimbes\b|\bsa halip\b|\bayoko na\b
    \b(?:wag|huwag|hindi|di) na\b
""")
_COMMON = frozenset(  # of these, none says what a decision is about
    """then that this they them with from have will what when were been just your ours mine also only into over than
    some more here there about after before again still take keep make instead okay sige lang naman muna tayo natin
    namin kami yung hindi huwag para pero kasi dito doon sila nila niya kung nating naming bukas ngayon lahat gawin
    gawa simula the and for you are was not but can has had his her our its who how all any one two yes now get got out
    too way let why she him did may off per use new old ang mga ito yan yun yon nga rin din daw raw kay sya kay pag cge
    isa nay ako nyo ikaw kayo ninyo siya""".split()  # noqa: SIM905
)
_word = re.compile(r"\w{3,}|\b[A-Z0-9]{2,}\b|\d+")
_SHORT = 14  # words of an answer
_ENOUGH = 2  # signs
_OPENING = 2  # sentences that an *ok* before them is about
_end = re.compile(rf"(?<=[.!?])\s+|[{LINE_BREAKS}]+")


def plain(text: str) -> str:
    """Return a text as it is searched: in lower case, one space for any white space, `'` for `’`."""
    return " ".join(text.casefold().replace("\u2019", "'").split())


def decisions_in(text: str, previous: str = "") -> Iterator[str]:
    """Yield the sentences of a text that state a decision, in their order.

    Args:
        text: what somebody says.
        previous: what somebody else said just before: the answer to its question may decide. Empty if there is nothing.
    """
    sentences = [sentence.strip() for sentence in _end.split(text) if sentence.strip()]
    searched = [plain(sentence) for sentence in sentences]
    affirms, answers = bool(searched and _AFFIRMS.search(searched[0])), _asks_what_to_do(previous)
    denied = [bool(_SAYS_NOT.search(words)) for words in (*searched, "")]
    for place, words in enumerate(searched):
        if denied[place] or denied[place + 1]:
            continue
        if _OTHERWISE.search(words) or _WITHDRAWS.search(words):
            continue
        signs = sum(bool(sign.search(words)) for sign in _SIGNS) - searched[-1].endswith("?")
        signs += affirms and place < _OPENING and " " in words
        answer = place == 0 and answers and len(words.split()) <= _SHORT and not _ELSEWHERE.search(words)
        if answer or signs >= _ENOUGH or _DECIDES.search(words):
            yield sentences[place]


def withdrawal_in(text: str) -> str:
    """Return what a text takes back or replaces, in its words; empty if nothing.

    It is the sentence that does so, and the one before it where one is withdrawn: *That agreement is off.*
    """
    sentences, found = ["", *(sentence.strip() for sentence in _end.split(text))], []
    for before, sentence in itertools.pairwise(sentences):
        words = plain(sentence)
        if words.endswith("?"):
            continue
        if _WITHDRAWS.search(words):
            found += [before, sentence]
        elif _REPLACES.search(words):
            found.append(sentence)
    return " ".join(found).strip()


def shared_words(withdrawal: str, decision: str) -> int:
    """Return how many words that name things a withdrawal and a decision share: of 3 letters, a number, or capitals."""
    return len((_words_of(withdrawal) & _words_of(decision)) - _COMMON)


@lru_cache(maxsize=1_024)  # a summary compares each withdrawal with each decision
def _words_of(text: str) -> frozenset[str]:
    return frozenset(word.casefold() for word in _word.findall(text))


def _asks_what_to_do(text: str) -> bool:
    asked = (plain(sentence) for sentence in _end.split(text))
    return any(each.endswith("?") and _ASKS_WHAT_TO_DO.search(each) for each in asked)
