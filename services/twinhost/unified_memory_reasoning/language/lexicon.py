"""The words that the rules of this package are about, in English and Filipino; each list stands here once."""

from functools import cache
from importlib.resources import files
from typing import NamedTuple


def words(text: str) -> frozenset[str]:
    """Return the words of a list."""
    return frozenset(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Return the phrases of a list, which semicolons separate."""
    return tuple(phrase.strip() for phrase in text.split(";"))


def _numbered(first: int, *names: str) -> dict[str, int]:
    return {name: number for number, of_one in enumerate(names, first) for name in of_one.split()}


# The order of the names, and that Sunday is 0 as in SQLite, is in the text of migrations: see `index_tables`.
MONTHS = _numbered(
    1,
    *("january jan enero", "february feb pebrero", "march mar marso", "april apr abril", "may mayo", "june jun hunyo"),
    *("july jul hulyo", "august aug agosto", "september sept sep setyembre", "october oct oktubre"),
    *("november nov nobyembre", "december dec disyembre"),
)
WEEKDAYS = _numbered(
    0,
    *("sunday linggo", "monday lunes", "tuesday martes", "wednesday miyerkules miyerkoles", "thursday huwebes"),
    *("friday biyernes", "saturday sabado"),
)
FILIPINO_NUMBERS = _numbered(1, *["isa", "dalawa", "tatlo", "apat", "lima", "anim", "pito", "walo", "siyam", "sampu"])
NUMBERS = FILIPINO_NUMBERS | _numbered(
    1,
    *("one una", "two dos", "three tres", "four kuwatro", "five singko", "six sais", "seven siyete", "eight otso"),
    *("nine nuwebe", "ten diyes", "eleven onse", "twelve dose"),
)
# How many days after its own a text's day word means, in the order of the migrations.
DAYS_AWAY = {
    **dict.fromkeys(("yesterday", "last night", "kahapon", "kagabi"), -1),
    **dict.fromkeys(("day before yesterday", "kamakalawa"), -2),
    **dict.fromkeys(("tomorrow", "bukas"), 1),
}
BEFORE_LAST_WEEKDAY = ("last", "noong", "nung")  # *last Monday*
BEFORE_NEXT_WEEKDAY = ("next", "on", "this", "sa")

ENGLISH_STOP_WORDS = words("""
a about after again all also am an and any are as at be because been before being but by can could d did do does doing
done down during each few for from further get got had has have having he her here hers him his how i if in into is it
its just ll lot m many me more most much my no nor not now of off on once only or other our ours out over own re s same
she should so some such t than that the their theirs them then there these they this those through to too under until up
us ve very was we were what when where which while who whom whose why will with would you your yours please tell
""")
STOP_WORDS = ENGLISH_STOP_WORDS | words("""
ako akin aking akong alin ang ano anong at ata atin ating ay ayon ba bakit bago bawat daw din dito doon dun gaya ganun
hindi iba ibig ikaw ilan ilang inyo isa isang ito itong iyo iyon iyong ka kami kanila kanilang kanino kanya kanyang
kapag kasi kay kaya kayo ko kung kailan kina lahat lamang lang may mayroon mga mo muna na naman nasa nang natin namin
ng nga ngayon ni nila nina nina nito niya niyang niyon noon noong nun nung nya nyo o paano pa pag pala para pero po raw
rin sa saan sana sapagkat si sila sina sino siya siyang sinong sya talaga tayo tungkol ulit upang wala y yan yon yun
yung
""")

NEGATIONS = words("not never hindi di cannot wala walang")  # beside those that end in n't
DENIALS = (
    "not",
    "instead of",
    "rather than",
    "no longer",
    "imbes na",
    "hindi na",
    "wag na",
    "huwag na",
)  # before what is denied
ABBREVIATIONS = words("Mr Ms Mrs Dr Dra Prof Engr Atty Bb Gng St vs")  # whose full stop ends no sentence
TITLES = words("mr mrs ms dr dra prof engr atty sir")  # before a name


class Pairs(NamedTuple):
    """Words and their counterparts in the other language, and the English ones that are not Filipino ones too."""

    counterparts: dict[str, tuple[str, ...]]
    english: frozenset[str]


@cache
def word_pairs() -> Pairs:
    """Return the pairs of `word_pairs.txt`."""
    pairs: dict[str, dict[str, None]] = {}
    filipino: set[str] = set()
    lines = files(__package__).joinpath("word_pairs.txt").read_text(encoding="utf-8").splitlines()
    for spellings, *english in (line.split() for line in lines if line and not line.startswith("#")):
        for spelling in spellings.split("/"):
            filipino.add(spelling)
            for translation in english:
                pairs.setdefault(spelling, {})[translation] = None
                pairs.setdefault(translation, {})[spelling] = None
    return Pairs({word: tuple(others) for word, others in pairs.items()}, frozenset(pairs.keys() - filipino))
