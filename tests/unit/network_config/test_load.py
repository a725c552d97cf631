"""The configuration file: what is right is typed, and what is wrong is named with file and path."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from twinhost.network_config import Agent, Embeddings, Forgetting, Host, Limits, Recall, load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.network_config.model import BUILTIN, BUILTIN_IF_INSTALLED
from twinhost.secure_zmq.errors import ConfigurationError

GOOD: dict[str, Any] = {
    "hosts": {"mainpc": {"address": "mainpc"}, "pc2": {"address": "10.0.0.2"}},
    "agents": {
        "SystemDigitalTwin": {"host": "mainpc", "key": "server", "ports": {"zmq": 7120, "events": 7150, "http": 8120}},
        "UnifiedMemoryReasoningAgent": {"host": "pc2", "key": "client", "ports": {"zmq": 7230, "http": 8230}},
    },
    "grants": {"agent": ["ping", "heartbeat"], "operator": ["*"]},
    "limits": {
        "max_payload_bytes": 4_194_304,
        "heartbeat_s": 5,
        "registration_ttl_s": 15.5,
        "stored_replies_s": 600,
        "stored_replies_per_caller": 100_000,
        "key_lifetime_days": 365,
        "metrics_interval_s": 2.5,
    },
    "recall": {"word_pairs": False, "embeddings": "off"},
    "memory": {"forgetting": "passes", "memory_half_life_days": 45},
}
OPTIONAL = {"agents.SystemDigitalTwin.ports.events"}
DEFAULTED = {("recall",), ("recall", "word_pairs"), ("recall", "embeddings"), ("memory",)}
FREE_NAMES = {"hosts", "agents", "grants"}  # below these, the names are the user's own
SDT_PORTS = "agents.SystemDigitalTwin.ports"
Place = tuple[str, ...]


def places(node: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Return every place of the file below the top, with its value."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield (*path, name), value
            yield from places(value, (*path, name))


def changed(change: Callable[[dict[str, Any]], None], *place: str) -> dict[str, Any]:
    """Return a copy of the good file in which the mapping at a place was changed."""
    document = copy.deepcopy(GOOD)
    node = document
    for name in place:
        node = node[name]
    change(node)
    return document


def refused(tmp_path: Path, content: Any) -> str:
    """Load a file that is wrong; return the complaint without the file's name, which must begin it."""
    path = tmp_path / "network_config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(ConfigurationError) as refusal:
        load_network_config(path, {})
    sentence = str(refusal.value)
    assert sentence.startswith(f"{path}")
    assert "\n" not in sentence
    return sentence.removeprefix(f"{path}").removeprefix(": ").removeprefix(" ")


def test_a_file_may_limit_the_sessions_of_a_key(tmp_path: Path) -> None:
    """A file of version 0.1.0 does not, and gets the default."""
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(changed(lambda limits: limits.update(sessions_per_key=7), "limits")))
    assert load_network_config(path, {}).limits.sessions_per_key == 7
    wrong = changed(lambda limits: limits.update(sessions_per_key=0), "limits")
    assert refused(tmp_path, wrong) == "limits.sessions_per_key must be a whole number, more than 0, not 0"


def test_an_agent_has_a_standby_only_with_a_database(tmp_path: Path) -> None:
    """On one machine it has an address of its own; on two, it is reached at its host's."""
    path, database = tmp_path / "network_config.yaml", {"TWINHOST_DATABASE": "postgresql:///log"}
    where = {"host": "pc2", "address": "mainpc-standby"}
    path.write_text(yaml.safe_dump(changed(lambda node: node["SystemDigitalTwin"].update(standby=where), "agents")))
    assert load_network_config(path, {}).agent("SystemDigitalTwin").standby is None
    config = load_network_config(path, database)
    assert config.agent("UnifiedMemoryReasoningAgent").standby is None
    agent = config.agent("SystemDigitalTwin")
    assert agent.standby == Host("pc2", "mainpc-standby")
    assert agent.endpoints == (agent.endpoint, "tcp://mainpc-standby:7120")
    assert agent.feed_endpoints == (agent.host.endpoint(7150), "tcp://mainpc-standby:7150")
    on_two = load_network_config(path, {**database, "PC2_IP": "192.0.2.2"}).agent("SystemDigitalTwin")
    assert on_two.hosts == (Host("mainpc", "mainpc"), Host("pc2", "192.0.2.2"))
    where["host"] = "mainpc"
    wrong = changed(lambda node: node["SystemDigitalTwin"].update(standby=where), "agents")
    complaint = "agents.SystemDigitalTwin.standby.host must be another host than the agent's (pc2), not 'mainpc'"
    assert refused(tmp_path, wrong) == complaint


def test_an_older_file_has_the_rule_days(tmp_path: Path) -> None:
    """Files of version 0.2 and before lack the section `memory`."""
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in GOOD.items() if key != "memory"}))
    assert load_network_config(path, {}).memory == Forgetting("days", 30.0)
    wrong = yaml.safe_dump(GOOD).replace("forgetting: passes", "forgetting: hours")
    assert refused(tmp_path, wrong) == "memory.forgetting must be days or passes, not 'hours'"


def test_a_file_may_switch_word_pairs_off(tmp_path: Path) -> None:
    """The default is true."""
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(changed(lambda recall: recall.pop("word_pairs"), "recall")))
    assert load_network_config(path, {}).recall.word_pairs
    path.write_text(yaml.safe_dump(GOOD))
    assert not load_network_config(path, {}).recall.word_pairs
    wrong = changed(lambda node: node.update(word_pairs="no"), "recall")
    assert refused(tmp_path, wrong) == "recall.word_pairs must be true or false, not 'no'"


@pytest.mark.parametrize(
    ("embeddings", "expected"),
    [
        (False, None),  # as YAML reads `off`
        ("off", None),
        ("auto", BUILTIN_IF_INSTALLED),
        ("builtin", BUILTIN),
        ({"url": "http://[::1]:1/v1", "model": "m"}, Embeddings("http://[::1]:1/v1", "m")),
        (
            {"url": "http://other/v1", "model": "m", "unencrypted": True, "text_prefix": "t: ", "deadline_s": 1},
            Embeddings("http://other/v1", "m", text_prefix="t: ", deadline_s=1.0),
        ),
    ],
)
def test_embeddings_are_auto_builtin_off_or_a_service(
    tmp_path: Path, embeddings: Any, expected: Embeddings | None
) -> None:
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(changed(lambda recall: recall.update(embeddings=embeddings), "recall")))
    assert load_network_config(path, {}).recall.embeddings == expected


@pytest.mark.parametrize(
    ("embeddings", "complaint"),
    [
        (True, " must be auto, builtin, off, or a mapping with `url` and `model`, not True"),
        ("on", " must be auto, builtin, off, or a mapping with `url` and `model`, not 'on'"),
        (0, " must be auto, builtin, off, or a mapping"),
        (["auto"], " must be auto, builtin, off, or a mapping"),
        ({"url": "https://h/v1"}, " lacks the key 'model'"),
        ({"url": "https://h/v1", "model": "m", "key": "x"}, " has the unknown key 'key'"),
        ({"url": "http://h/v1", "model": "m"}, ".url would send every text unencrypted to h"),
        ({"url": "http://h/v1", "model": "m", "unencrypted": 1}, ".unencrypted must be true or false"),
        ({"url": "ftp://h/v1", "model": "m"}, ".url must be a URL such as"),
        ({"url": "https://me:secret@h/v1", "model": "m"}, ".url must be a URL such as"),
        ({"url": "https://a..b/v1", "model": "m"}, ".url must be a URL such as"),
        ({"url": "https://h:99999/v1", "model": "m"}, ".url must be a URL such as"),
        ({"url": "https://h/v1", "model": "m", "deadline_s": 2.5}, ".deadline_s must be a number of seconds"),
    ],
)
def test_wrong_embeddings_are_refused(tmp_path: Path, embeddings: Any, complaint: str) -> None:
    wrong = changed(lambda recall: recall.update(embeddings=embeddings), "recall")
    assert refused(tmp_path, wrong).startswith(f"recall.embeddings{complaint}")


def test_a_good_file_is_typed(tmp_path: Path) -> None:
    """Hosts, agents, ports, and limits come out as frozen values."""
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    config = load_network_config(path, {})
    mainpc = Host("mainpc", "mainpc")
    assert config.hosts == {"mainpc": mainpc, "pc2": Host("pc2", "10.0.0.2")}
    assert config.agent("SystemDigitalTwin") == Agent("SystemDigitalTwin", mainpc, "server", 7120, 8120, 7150)
    assert config.agent("UnifiedMemoryReasoningAgent").events_port is None
    assert config.limits == Limits(4_194_304, 5.0, 15.5, 600.0, 100_000, 365, 2.5, 64)
    assert config.recall == Recall(word_pairs=False, embeddings=None)
    assert config.memory == Forgetting("passes", 45.0)
    assert config.source == str(path)


def test_the_file_of_the_repository_is_good() -> None:
    """What is shipped loads, with the ports of the contract."""
    config = load_network_config(DEFAULT_PATH, {})
    agents = {agent.name: (agent.zmq_port, agent.http_port, agent.events_port) for agent in config.agents.values()}
    assert agents == {"SystemDigitalTwin": (7120, 8120, 7150), "UnifiedMemoryReasoningAgent": (7230, 8230, None)}


@pytest.mark.parametrize(
    "place",
    [place for place, _ in places(GOOD) if place[:-1] not in {("agents",), ("grants",)} and place not in DEFAULTED],
    ids=".".join,
)
def test_every_missing_key_is_named(tmp_path: Path, place: Place) -> None:
    """Each key of the file is needed; where one is left out, its path and its name are in the message."""
    *parents, name = place
    document = changed(lambda node: node.pop(name), *parents)
    if ".".join(place) in OPTIONAL:
        (tmp_path / "network_config.yaml").write_text(yaml.safe_dump(document))
        assert load_network_config(tmp_path / "network_config.yaml", {}).agent(place[1]).events_port is None
    elif parents == ["hosts"]:
        assert "must be one of the hosts" in refused(tmp_path, document)
    else:
        assert refused(tmp_path, document) == f"{'.'.join(parents) or 'the top level'} lacks the key {name!r}"


@pytest.mark.parametrize(
    "place",
    [(), *(place for place, value in places(GOOD) if isinstance(value, dict) and place[-1] not in FREE_NAMES)],
    ids=".".join,
)
def test_every_unknown_key_is_named(tmp_path: Path, place: Place) -> None:
    """A typing error stops the start, at every level; the message lists the known keys."""
    document = changed(lambda node: node.update(porst=1), *place)
    complaint = refused(tmp_path, document)
    assert complaint.startswith(f"{'.'.join(place) or 'the top level'} has the unknown key 'porst'; known keys: ")


WRONG = [None, [1], {"a": 1}, True, "", -1, 0, 1.5, "x y"]
SECONDS = ("heartbeat_s", "registration_ttl_s", "stored_replies_s", "metrics_interval_s")
FITTING = {
    ("key", ""),
    ("key", "x y"),
    *((name, 1.5) for name in (*SECONDS, "memory_half_life_days")),
    ("word_pairs", True),
    ("recall", None),
}


@pytest.mark.parametrize("place", [place for place, _ in places(GOOD)], ids=".".join)
@pytest.mark.thorough
def test_every_value_of_a_wrong_type_is_named(tmp_path: Path, place: Place) -> None:
    """Whatever value is in the wrong place, the path of that place is in the message."""
    *parents, name = place
    for wrong in WRONG:
        if isinstance(wrong, list | dict) or (name, wrong) not in FITTING:
            complaint = refused(tmp_path, changed(lambda node: node.update({name: wrong}), *parents))  # noqa: B023
            assert complaint.startswith(".".join(place)), wrong


@pytest.mark.parametrize("port", [0, -1, 65_536, 7120.0, "7120", True])
def test_a_port_is_a_whole_number_from_1_to_65535(tmp_path: Path, port: object) -> None:
    """Also one in quotes is a slip."""
    complaint = refused(tmp_path, changed(lambda node: node.update(zmq=port), *SDT_PORTS.split(".")))
    assert complaint.startswith(f"{SDT_PORTS}.zmq must be a port number")


@pytest.mark.parametrize("seconds", [".inf", ".nan", "-5", "0", "true", "'5'", "9" * 400])
def test_a_time_is_finite_and_more_than_0(tmp_path: Path, seconds: str) -> None:
    """A deadline that never comes is none."""
    text = yaml.safe_dump(GOOD).replace("heartbeat_s: 5", f"heartbeat_s: {seconds}")
    assert refused(tmp_path, text).startswith("limits.heartbeat_s must be ")


@pytest.mark.parametrize("days", [".inf", ".nan", "-1", "0.0", "36500.5", "true", "'30'"])
def test_a_half_life_is_above_0_and_at_most_a_hundred_years(tmp_path: Path, days: str) -> None:
    text = yaml.safe_dump(GOOD).replace("memory_half_life_days: 45", f"memory_half_life_days: {days}")
    assert refused(tmp_path, text).startswith("memory.memory_half_life_days must be a number of days")


@pytest.mark.parametrize("recall", ["", "recall:\n", "recall:\n  # word_pairs: false\n", "recall: {}\n"])
def test_everything_about_the_search_has_a_default(tmp_path: Path, recall: str) -> None:
    """The whole section may be missing, or have comments alone."""
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in GOOD.items() if key != "recall"}) + recall)
    assert load_network_config(path, {}).recall == Recall(
        word_pairs=True, tokenizer=None, embeddings=BUILTIN_IF_INSTALLED
    )


OLDER_RECALL = """\
recall:
  bm25: 1.0                          # how well the words match; more than 0
  importance: 0.05
  recency: 0.2
  strength: 0.1
  recency_half_life_days: 90         # after this many days, recency counts half
"""


@pytest.mark.parametrize("newer", ["", "  word_pairs: false\n"])
def test_an_older_file_is_refused_until_its_weights_are_deleted(tmp_path: Path, newer: str) -> None:
    """All of them in one sentence, whatever their values; nothing else has to be changed."""
    rest = yaml.safe_dump({key: value for key, value in GOOD.items() if key != "recall"})
    found = re.fullmatch(
        r"recall has ([a-z0-9_, ]+): since version 0\.3 a search has no weights; delete these lines",
        refused(tmp_path, rest + OLDER_RECALL.replace("0.2", "much") + newer),
    )
    assert found is not None
    left = [
        line
        for line in OLDER_RECALL.splitlines(keepends=True)
        if line.split(":")[0].strip() not in found[1].split(", ")
    ]
    path = tmp_path / "network_config.yaml"
    path.write_text(rest + "".join(left) + newer)
    assert load_network_config(path, {}).recall == Recall(word_pairs=not newer)
    assert refused(tmp_path, changed(lambda node: node.update(recency=None), "recall")).startswith(
        "recall has recency: "
    )


def test_a_tokenizers_path_is_relative_to_the_file(tmp_path: Path) -> None:
    """Or absolute; older files name no tokenizer."""
    path = tmp_path / "network_config.yaml"
    for named, found in (("a.json", tmp_path / "a.json"), ("/b.json", Path("/b.json"))):
        path.write_text(yaml.safe_dump({**GOOD, "recall": {**GOOD["recall"], "tokenizer": named}}))
        assert load_network_config(path, {}).recall.tokenizer == found
    for wrong in (7, None, ["a.json"]):
        text = yaml.safe_dump({**GOOD, "recall": {**GOOD["recall"], "tokenizer": wrong}})
        assert refused(tmp_path, text).startswith("recall.tokenizer must be a string")


@pytest.mark.parametrize(
    "address", ["a b", "tcp://mainpc", "mainpc:7120", "[::1]", "-a", "a..b", "ä", "*", "10.0.0.300"]
)
def test_an_address_is_a_name_or_an_address(tmp_path: Path, address: str) -> None:
    """Not an endpoint, not a pattern, and not a slip in an IPv4 address."""
    complaint = refused(tmp_path, changed(lambda node: node.update(address=address), "hosts", "mainpc"))
    assert complaint == f"hosts.mainpc.address must be a host name or an IP address, not {address!r}"


def test_an_agent_on_an_unknown_host_is_named(tmp_path: Path) -> None:
    """The message lists the existing hosts."""
    document = changed(lambda node: node.update(host="pc3"), "agents", "SystemDigitalTwin")
    assert (
        refused(tmp_path, document) == "agents.SystemDigitalTwin.host must be one of the hosts (mainpc, pc2), not 'pc3'"
    )


@pytest.mark.parametrize(
    "text", ["a: [", "\t", "a: b: c", "!!python/object/apply:os.system ['true']", "- 1\nb: 2", "&a [*b]", "[" * 5_000]
)
def test_what_is_not_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    """A syntax error is one sentence with the file's name, and no tag makes an object."""
    assert refused(tmp_path, text).startswith("is not YAML: ")


@pytest.mark.parametrize("text", ["", "null", "[]", "mainpc", "1"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """An empty file, too, says what it should have been."""
    assert refused(tmp_path, text).startswith("the top level must be a mapping, not ")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A host called 1 is a slip."""
    text = yaml.safe_dump(GOOD).replace("  pc2:\n    address", "  1:\n    address")
    assert refused(tmp_path, text).startswith("hosts has a key that is not a string")


def test_a_missing_file_says_which_variable_to_set(tmp_path: Path) -> None:
    """And a folder in the file's place says what the system says."""
    with pytest.raises(ConfigurationError, match=r"absent\.yaml is missing; set NETWORK_CONFIG_PATH"):
        load_network_config(tmp_path / "absent.yaml", {})
    with pytest.raises(ConfigurationError, match="can't be read"):
        load_network_config(tmp_path, {})


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """An editor's wrong encoding is named."""
    path = tmp_path / "network_config.yaml"
    path.write_bytes(b"hosts: \xff\xfe")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        load_network_config(path, {})


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """PyYAML would let the last one win, and half of the file would not be in force."""
    content = yaml.safe_dump(GOOD) + "limits:\n  heartbeat_s: 1\n"
    assert "the key 'limits' occurs twice, the second time in line" in refused(tmp_path, content)


@pytest.mark.parametrize("stem", ["", "../server", "a/b", ".hidden", "k" * 65])
def test_a_key_stem_names_a_file_of_the_folder(tmp_path: Path, stem: str) -> None:
    """It becomes a file's name, so it can't lead out of the folder."""
    document = changed(lambda agent: agent.update(key=stem), "agents", "SystemDigitalTwin")
    assert "agents.SystemDigitalTwin.key must be the name of a key file" in refused(tmp_path, document)
