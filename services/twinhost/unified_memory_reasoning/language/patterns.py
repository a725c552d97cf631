"""Regular expressions for texts as `plain` returns them, made of named kinds of words."""

import re

from twinhost.unified_memory_reasoning.language.lexicon import MONTHS, NEGATIONS, WEEKDAYS

_ABBREVIATED = 3  # letters of a month's name, as *mar*, which is a person's too
# In the patterns, <name> stands for the words of that name; each line is one, or goes on with the one before after `|`.
_WORDS = {
    "day": f"to(?:day|night|morrow)|bukas|ngayon|mamaya|next|{'|'.join(WEEKDAYS)}",
    "date": r"(?!at|by|for|in|of|the)\w{3,9} \d\d?|\d\d?(?:st|nd|rd|th)",
    "month": "|".join(name for name in MONTHS if name == "may" or len(name) > _ABBREVIATED),
    "we": "we|i|they|both|all|every(?:one|body)|board|council|committee|team|family|group|class|management|boss|"
    "members|majority|client|owner|landlord|captain|coach|mom|mum|dad|parents",
    "state": "see|look|think|tell|let|ask|try|check|know|need|have|be|want|wait|hope|say|talk|find|never|always|had|"
    "get|hear|learn|miss",
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
    "clause": "(?:^|[,;:] |so |kaya )",
    # From when on something holds, which says that it did not before.
    "from_then": r"\b(?:from (?:now|this|next|<day>)(?: \w+)? on(?:wards?)?|^from <day>|until further notice|"
    r"(?:as of|effective) (?!now|yesterday|immediate)(?:the )?\w+|"
    r"(?:starting|beginning|simula|mula|umpisa) (?:sa |this |next |the )?(?:<day>|<date>|<month>))\b(?!.* hanggang\b)",
    "actor": r"(?:ang|yung|lang|(?:tayo|kami|ako|natin|namin)(?! na(?:ka|g)))\b",
    "there": "(?:sa|kay|doon|dun|dito|diyan|dyan)",
    "who": "(?:si|sina|ikaw|sya|siya|sila|kami|tayo)",
    "does": "(?:gets|goes to|takes|brings|keeps|sings|drives|collects|pays|hosts|cooks|stays)",
    # What stands before `tayo` or `natin` in a statement of how things are.
    "no_verb": r"(?:may|meron|mayroon|wala|walang|nasa|nandito|nandoon|kulang|huli|late|pagod|gutom|kumusta|kamusta|"
    r"pareho|sino|ano|anong|saan|kailan|kelan|ilan|ilang|magkano|bakit|paano|lagi|palagi|baka|naka\w+|nag\w+|nag-\w+|"
    r"para|kung|pag|kapag|dahil|kasi|hindi|di|hanggang|kasama|naman|na|at|pero)",
    "commit": "taking|buying|booking|ordering|reserving|getting|going|throwing|raising|lowering|changing|keeping|"
    "dropping|selling|cancelling|switching|moving|painting|replacing|renting|hiring|signing|skipping|stopping|quitting|"
    "joining|making|putting|picking|choosing|leaving|renewing|resigning|retiring|accepting|declining|"
    "rejecting|enrolling|adopting|naming|adding|removing|hosting|"
    "shifting|transferring|upgrading|ending|closing|withdrawing",
    "idle": "(?:a (?:nap|bath|shower|break|walk|look|bus|taxi|class|day)|an (?:exam|early)|so|too|very|"
    "really|old|tired|sick|hungry|worse|better|crazy|home|out|there|to (?:bed|work|sleep))",
    "ok": "ok(?:ay)?,?|sige,?|so|nay|tay|ma",
    "changed": "(?:moved|switched|changed|swapped|replaced|postponed|shifted|dropped|raised|lowered|cut|extended|"
    "renamed)",
    "binago": "(?:ginawa|i?nilipat|binago|pinalitan|itinaas|ibinaba|ini?urong|tinanggal|dinagdagan|binawasan)",
    "nobody": "(?:it|he|she|they|that|this|the|we|i|you|there|far|nobody|everyone|everybody|someone|who|what|which|all|"
    "my|his|her|their|much|many|no)",
    "fine": "(?:ok|okay|oks|ayos|go|game|g|payag|solb)",
    "po": "(?: (?:po|ho|nga|rin|din|daw|raw|muna|lang|naman|pala))*",
    "past": r"(?!nagka|nagpa|nagdes|napag|napili|nating|<decided>|booked|confirmed|locked)"
    r"(?:na-?\w{3,}|nag-(?!decide|agree|settle|finalize)\w{2,}|\w?um?in\w{3,}|\w+ed)",
    "natin": "natin|nating|namin|naming",
    # A contemplated verb of Filipino repeats its first syllable: kukunin, gagamitin, magpapadala.
    "will": r"(?<!nag-)(?<!pag-)(?<!nag)(?<!pag)(?!nanay|tatay|mamaya|lola|baba)"
    r"(?:mag|mang|maka|ma|ipag|i)?-?(?:(?!na)(?P<same>[bdghklmnprstwy]?[aeiou])(?P=same))\w+",
    "not": f"{'|'.join(sorted(NEGATIONS))}|no ?one|nobody|none|neither|nothing|yet to|d|huwag|wag",
    "question": "what|who|which|where|when|why|how|did|do|does|can|could|should|shall|would|will|is|are|have|has|sino|"
    "ano|anong|kailan|kelan|saan|paano|pano|magkano|bakit|alin",
}


def _expanded(patterns: str) -> list[str]:
    for name, words in reversed(_WORDS.items()):
        patterns = patterns.replace(f"<{name}>", f"(?:{words})")
    first, *parts = patterns.split("(?P<same>")  # each is a group of its own, up to the next one
    numbered = (f"(?P<same{n}>" + part.replace("(?P=same)", f"(?P=same{n})") for n, part in enumerate(parts))
    patterns = "".join((first, *numbered))
    return [line.strip(" ") for line in patterns.strip().replace("\n    |", "|").splitlines()]


def lines_of(patterns: str) -> list[re.Pattern[str]]:
    """Return the patterns of the lines of a text."""
    return [re.compile(line) for line in _expanded(patterns)]


def any_of(patterns: str) -> re.Pattern[str]:
    """Return the pattern that matches where one of several does."""
    return re.compile("|".join(f"(?:{line})" for line in _expanded(patterns)))
