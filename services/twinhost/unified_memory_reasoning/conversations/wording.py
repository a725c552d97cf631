"""Texts as they are searched for decisions, and the patterns of words that are searched for; pure."""

import re

from twinhost.unified_memory_reasoning.conversations.context_text import LINE_BREAKS

# In the patterns, <name> stands for the words of that name; each line is one, or goes on with the one before after `|`.
_WORDS = {
    "day": "to(?:day|night|morrow)|bukas|ngayon|mamaya|next|(?:mon|tues|wednes|thurs|fri|satur|sun)day|lunes|martes|"
    r"miyerkules|huwebes|biyernes|sabado|linggo",
    "date": r"(?!at|by|for|in|of|the)\w{3,9} \d\d?|\d\d?(?:st|nd|rd|th)",
    "month": "(?:jan|febr)uary|march|april|may|june|july|august|(?:septem|octo|novem|decem)ber|enero|pebrero|marso|"
    "abril|mayo|hunyo|hulyo|agosto|setyembre|oktubre|nobyembre|disyembre",
    "we": "we|i|they|both|all|every(?:one|body)|board|council|committee|team|family|group|class|management|boss|"
    "members|majority|client|owner|landlord|captain|coach|mom|mum|dad|parents",
    "state": "see|look|think|tell|let|ask|try|check|know|need|have|be|want|wait|hope|say|talk|find|never|always|had|"
    "get",
    "stative": "<state>|can|could|did|do|should|must|were|are|will|would|got|only|just|also|still|all|already|may|"
    "might|used|miss|like|love|live|work|usually|often|normally|sometimes|enjoy|hate|prefer|argue|doubt|seem|mean|wish|"
    "remember|expect|differ|went|took|came|made|gave|said|told|saw|met|ate|bought|brought|thought|found|left|lost|knew|"
    "felt|kept|ran|sat|slept|spent|drove|paid|sold|sent|wrote",
    "doing": r"(?!(?:look|think|try|wonder|hop|wait|work|runn|hav|be|feel|talk|ask|sitt|say|mean|com|gett|ly|stand|"
    r"writ|listen|read|stay|eat|watch|drink|enjoy|driv|play|sleep|"
    r"rest|travel|celebrat)ing\b)\w+ing",
    "decided": "decided|agreed?|settled|chose|chosen|voted|approved|picked|opted|finali[sz]ed|"
    "selected|elected|appointed",
    "undecided": "settle|final|sure|approve|choose|yet|minds?|yes|agreement|booked|signed|vote",
    "pick": "(?:take|make (?:it|that)|pick|choose|keep|use|drop|skip)",
    "commit": "taking|buying|booking|ordering|reserving|getting|going|throwing|raising|lowering|changing|keeping|"
    "dropping|selling|cancelling|switching|moving|painting|replacing|renting|hiring|signing|skipping|stopping|quitting|"
    "joining|making|putting|picking|choosing|leaving|renewing|resigning|retiring|accepting|declining|"
    "rejecting|enrolling|adopting|naming|adding|removing|hosting|not <doing>",
    "idle": "(?:a (?:nap|bath|shower|break|walk|look|bus|taxi|class|day)|an (?:exam|early)|so|too|very|"
    "really|old|tired|sick|hungry|worse|better|crazy|home|out|there|to (?:bed|work|sleep))",
    "ok": "ok(?:ay)?,?|sige,?|so|nay|tay|ma",
    "po": "(?: (?:po|ho|nga|rin|din|daw|raw|muna|lang|naman|pala))*",
    "past": r"(?!nagka|nagpa|nagdes|napag|napili|nating|<decided>|booked|confirmed|locked)"
    r"(?:na-?\w{3,}|\w?um?in\w{3,}|\w+ed)",
    "natin": "natin|nating|namin|naming",
    # A contemplated verb of Filipino repeats its first syllable: kukunin, gagamitin, magpapadala.
    "will": r"(?<!nag-)(?<!pag-)(?<!nag)(?<!pag)(?!nanay|tatay|mamaya|lola|baba)"
    r"(?:mag|mang|maka|ma|ipag|i)?-?(?:(?!na)([bdghklmnprstwy]?[aeiou])\1)\w{2,}",
    "not": r"not|never|cannot|no ?one|nobody|none|neither|nothing|yet to|hindi|di|d|wala|walang|huwag|wag",
    "question": "what|who|which|where|when|why|how|did|do|does|can|could|should|shall|would|will|is|are|have|has|sino|"
    "ano|anong|kailan|kelan|saan|paano|pano|magkano|bakit|alin",
}


def lines_of(patterns: str) -> list[re.Pattern[str]]:
    """Return the patterns of the lines of a text."""
    for name, words in reversed(_WORDS.items()):
        patterns = patterns.replace(f"<{name}>", f"(?:{words})")
    return [re.compile(line.strip(" ")) for line in patterns.strip().replace("\n    |", "|").splitlines()]


def any_of(patterns: str) -> re.Pattern[str]:
    """Return the pattern that matches where one of several does."""
    return re.compile("|".join(f"(?:{line.pattern})" for line in lines_of(patterns)))


NO_TITLE = "".join(
    rf"(?<!\b{title}\.)" for title in ("Mr", "Ms", "Mrs", "Dr", "Dra", "Prof", "Engr", "Atty", "Bb", "Gng", "St", "vs")
)
_end = re.compile(rf"(?<=[.!?]){NO_TITLE}\s+|[{LINE_BREAKS}]+")


def plain(text: str) -> str:
    """Return a text as it is searched: in lower case, one space for any white space, `'` for `’`."""
    return " ".join(text.casefold().replace("\u2019", "'").split())


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text: they end with a mark before a space, or with the line."""
    return [sentence.strip() for sentence in _end.split(text) if sentence.strip()]
