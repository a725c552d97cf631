"""The sentences of the question set: facts, how they are asked for, and the talk that only touches them.

A kind of fact has a subject `{s}` and a value `{v}`. `asked` never repeats a sentence of `told`: it has other words for
some of it, or other forms of a Filipino verb. `touched` names the subject and the matter and states no value.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact; `subject` and `value` name the pools that they are drawn from."""

    language: str
    subject: str
    value: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    touched: tuple[str, ...]


KINDS = (
    Kind(
        *("english", "service", "port"),
        ("{s} listens on port {v} since the firewall change", "we moved {s} to port {v} because the old one was taken"),
        ("Which port does {s} use?", "What port is {s} reachable at?"),
        ("port of {s} did not answer", "does anybody know the port of {s}?", "{s} port scan is done", "{s} port again"),
    ),
    Kind(
        *("english", "service", "person"),
        (
            "{v} is responsible for {s} from this quarter on",
            "the on-call owner of {s} will be {v} until further notice",
        ),
        ("Who owns {s}?", "Who is on call and responsible when {s} breaks?"),
        (
            "{s} owner was not there",
            "ask the owner of {s}",
            "is somebody responsible for {s}?",
            "{s} on call page came",
        ),
    ),
    Kind(
        *("english", "service", "window"),
        ("backups of {s} run {v} and take twenty minutes", "the nightly backup window of {s} is {v} by agreement"),
        ("When is {s} backed up?", "At what time do the backups of {s} start?"),
        ("backup of {s} finished", "{s} backup was slow", "did the backup of {s} run?", "restored {s} from its backup"),
    ),
    Kind(
        *("english", "service", "cause"),
        ("the outage of {s} was caused by {v} as the logs prove", "root cause found: {v} took {s} down that morning"),
        ("Why did {s} go down?", "What caused the outage of {s}?"),
        ("another outage of {s}", "{s} is down", "logs of {s} from the outage", "why is {s} slow?", "{s} is up again"),
    ),
    Kind(
        *("english", "person", "preference"),
        ("{s} prefers {v} and does not like to repeat it", "when you answer {s}, use {v}; that is what was agreed"),
        ("What does {s} prefer?", "How should answers to {s} look, what was agreed?"),
        (
            "{s} was here",
            "answer {s}",
            "what would {s} prefer?",
            "{s} agreed",
            "{s} does not like the answer",
            "ask {s}",
        ),
    ),
    Kind(
        *("english", "service", "version"),
        ("{s} must stay on version {v} until the driver is fixed", "we pinned {s} at release {v}, newer ones crash"),
        ("Which version of {s} is pinned?", "What release must {s} stay on?"),
        (
            "new version of {s} is out",
            "upgrade {s}?",
            "{s} release notes",
            "{s} crashed after the upgrade to a release",
        ),
    ),
    Kind(
        *("filipino", "person", "place"),
        ("nagpadala si {s} ng kontrata sa {v} kahapon ng hapon", "sa {v} nagdala si {s} ng kontratang pinirmahan"),
        ("Saan ipinadala ni {s} ang kontrata?", "Saan dinala ni {s} ang kontrata?"),
        (
            "tumawag si {s} tungkol sa kontrata",
            "si {s} ay nagtanong ng kontrata",
            "kontrata ni {s}",
            "wala si {s} dito",
        ),
    ),
    Kind(
        *("filipino", "service", "window"),
        ("magbubukas ang {s} tuwing {v} ayon sa kasunduan", "ang {s} ay binubuksan {v} ng tagapamahala araw-araw"),
        ("Kailan bubuksan ang {s}?", "Anong oras nagbubukas ang {s}?"),
        ("bukas na ba ang {s}?", "sarado ang {s}", "bakit sarado ang {s}?", "oras na para sa {s}", "{s} na naman"),
    ),
    Kind(
        *("filipino", "service", "person"),
        (
            "si {v} ang namamahala sa {s} mula ngayong buwan",
            "ipinagkatiwala kay {v} ang pamamahala ng {s} hanggang Disyembre",
        ),
        ("Sino ang mamamahala ng {s}?", "Kanino ipinamahala ang {s}?"),
        ("tanong tungkol sa {s}", "sino ang nasa {s}?", "may nagtanong sa {s}", "hindi sumagot ang {s}", "{s} ulit"),
    ),
    Kind(
        *("filipino", "person", "preference"),
        ("gustong gamitin ni {s} ang {v} sa bawat sagot", "ginagamit ni {s} ang {v}, ayaw niya ng iba"),
        ("Ano ang gagamitin ni {s}?", "Ano ang gusto ni {s} na gamitin sa sagot?"),
        ("sagot kay {s}", "gusto ni {s} ng sagot", "dumating si {s}", "ano ang sagot ni {s}?", "sumagot si {s} kanina"),
    ),
    Kind(
        *("filipino", "service", "cause"),
        ("nasira ang {s} dahil sa {v} noong madaling araw", "{v} ang sumira sa {s} ayon sa pagsusuri ng talaan"),
        ("Ano ang nakasira sa {s}?", "Bakit nasisira ang {s}, ano ang dahilan?"),
        (
            "sira na naman ang {s}",
            "ayos na ang {s}",
            "dahil sa {s} ay huli ang ulat",
            "sinuri ang {s}",
            "mabagal ang {s}",
        ),
    ),
)
STRESSES = {
    "english": ("Remember: {}", "Important: {}", "{}, which is critical", "don't forget: {}"),
    "filipino": ("Tandaan: {}", "Mahalaga: {}", "{}, importante ito", "alalahanin na {}"),
}
CHANGES = {"english": "correction, {}", "filipino": "pagbabago, {}"}


def _pool(text: str, between: str | None = None) -> list[str]:
    return [" ".join(each.split()) for each in text.split(between)]


ADJECTIVES = _pool(
    """
amber ashen azure bold brave brisk calm cedar cobalt copper coral crimson daring dusty eager early fabled
faint fleet frosty gentle gilded golden grand hazel hidden humble icy indigo ivory jade keen late lively lofty
lunar mellow misty noble olive pale placid proud quiet rapid ruby rustic sable scarlet serene silent silver
sleek smoky solar stormy sturdy sunny swift tawny tidal tranquil umber velvet vivid wandering wild winter
""",
)
ANIMALS = _pool(
    """
adder badger beaver bison bittern bobcat buzzard caribou condor cougar crane cuckoo curlew dingo dolphin egret
falcon ferret finch gannet gazelle gecko grouse hamster heron hornet ibex ibis iguana jackal jaguar kestrel
koala lemur leopard linnet lizard lynx magpie mantis marmot marten moose newt ocelot osprey otter panther
pelican petrel plover puffin quail rabbit raven robin salmon seal shrike skylark sparrow stoat stork swallow
tapir tern thrush toad turtle viper vole walrus weasel wombat wren
""",
)
FIRST_NAMES = _pool(
    """
Ana Andres Bea Berto Carlo Celia Dario Delia Efren Elena Felix Flora Gemma Gregorio Hilda Hector Ines Isko
Jaime Josefa Karla Kiko Lando Ligaya Marites Mario Nena Nilo Olga Oscar Paolo Perla Quirino Ramon Rosario
Sergio Simeon Tala Tomas Ulises Veronica Victor Wilma Yolanda Zeny
""",
)
LAST_NAMES = _pool(
    """
Abad Aquino Bautista Belmonte Calderon Castillo Delgado Domingo Enriquez Espino Fajardo Ferrer Galang Guevara
Herrera Ilagan Jacinto Katigbak Lacson Lorenzo Macaraeg Manalo Navarro Ocampo Padilla Quiambao Ramos Salonga
Santiago Tolentino Umali Valdez Velasco Yulo Zamora
""",
)
WINDOWS = _pool(
    """
at dawn, at noon, at midnight, every Sunday, before lunch, after the market closes, on the first Monday
""",
    ",",
)
CAUSES = _pool(
    """
a full disk, an expired certificate, a loose cable, a lost lease, a wrong clock, a leaking cache, overheating,
brownout, a stuck migration, a bad memory module
""",
    ",",
)
PREFERENCES = _pool(
    """
short tables, plain Tagalog, metric units, bullet points, dark colours, large print, voice messages,
spreadsheets, formal English, diagrams
""",
    ",",
)
PLACES = _pool(
    """
Cebu, Davao, Iloilo, Baguio, Makati, Quezon, Batangas, Tarlac, Legazpi, Zamboanga
""",
    ",",
)
ENGLISH_TALK = _pool(
    """
the a and to of in is it that for was on with are as this be at we have not but they from can will there what
all an if has out so about when up time no just like know take into your good some could them see other than
then now look only come over think also back after use two how our work first well way even new want because
any these give day most error log server test build report status update request message connection network
memory model agent task queue file disk config deploy release user session token key cache index table record
client script process version run start stop restart check fix change review merge branch code function class
data result answer question meeting call note plan list issue ticket team owner port backup outage window
monitor alert metric value limit timeout retry driver image host address morning evening week month today
tomorrow yesterday late early slow fast broken ready done open closed again maybe later before during between
without please thanks sure okay right wrong next last same different whole part side place point group number
case company system program problem fact hand eye government room water story lot study job word book house
service friend father power hour game line end member law car city community name president minute idea body
parent face others level office door health person art war history party reason research girl guy moment air
teacher force education foot boy age policy music mind sense voice police price rate student heart effect drug
show leader light chance cost action season society tax director position player paper space ground form event
official matter center couple site project activity star need court oil situation industry figure street phone
""",
)
FILIPINO_TALK = _pool(
    """
ang ng sa mga na ay at si ni kay para ito iyon hindi oo wala may mayroon ako ikaw siya kami tayo kayo sila ko
mo niya namin natin ninyo nila dito doon diyan ngayon bukas kahapon mamaya kanina araw gabi umaga hapon linggo
buwan taon oras trabaho bahay opisina tao kaibigan anak magulang guro bata lalaki babae sagot tanong ulat
balita problema gawa sulat basa kain tulog lakad takbo bili benta tawag text usap sabi tingin kita dala kuha
bigay tanggap hintay sama balik uwi pasok labas sakay baba akyat sara simula tapos ulit muli lagi minsan
palagi bihira mabilis mabagal malaki maliit maganda pangit mabuti masama bago luma mahal mura malayo malapit
mainit malamig tama mali handa sira ayos kulang sobra kaunti marami lahat ilan iba pareho una huli susunod
nakaraan nagsabi sinabi kumain nagtrabaho pumunta dumating umalis bumalik nagtanong sumagot tumawag nagbasa
sumulat naglakad gumawa ginawa binili kinuha ibinigay tinanggap hinintay sinama pamilya pera bayad presyo
palengke tindahan kalsada sasakyan ulan init hangin dagat bundok pagkain tubig kape kanin isda gulay prutas
kontrata talaan kasunduan pulong plano listahan makina kompyuter sistema dahilan paraan bagay lugar bansa
""",
)
