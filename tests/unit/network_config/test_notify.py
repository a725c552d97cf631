"""The section `notify`: what is right is typed, and what is wrong is named with its path, and without a secret."""

from datetime import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.network_config.test_load import GOOD, refused
from twinhost.network_config import load_network_config
from twinhost.network_config.model import EmailDestination, HttpDestination, Notify

MAIL = {"email": ["ana@example.org"], "sender": "twinhost@example.org", "server": "smtp.example.org:587"}
SECRET_URL = "http://far.example/s3cret"


def loaded(tmp_path: Path, section: Any) -> Notify | None:
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "notify": section}))
    return load_network_config(path, {}).notify


def test_without_the_section_nobody_is_told(tmp_path: Path) -> None:
    assert loaded(tmp_path, None) is None


def test_a_good_section_is_typed(tmp_path: Path) -> None:
    """Files of secrets are beside the configuration, or absolute."""
    section = {
        "destinations": {
            "phone": {"ntfy": "https://ntfy.sh/topic", "token_file": "/secrets/token"},
            "chat": {"webhook_file": "chat-url"},
            "me": {**MAIL, "user": "u", "password_file": "p"},
        },
        "timezone": "Europe/Lisbon",
        "quiet_hours": "22:00-7:30",
        "quiet_lets_through": "nothing",
        "digest": "08:05",
    }
    assert loaded(tmp_path, section) == Notify(
        "pc2",
        {
            "phone": HttpDestination("ntfy", "https://ntfy.sh/topic", None, Path("/secrets/token"), unencrypted=False),
            "chat": HttpDestination("webhook", "", tmp_path / "chat-url", None, unencrypted=False),
            "me": EmailDestination(
                ("ana@example.org",),
                "twinhost@example.org",
                "smtp.example.org",
                587,
                "starttls",
                "u",
                tmp_path / "p",
            ),
        },
        "Europe/Lisbon",
        (time(22), time(7, 30)),
        "nothing",
        time(8, 5),
    )


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({}, " lacks the key 'destinations'"),
        ({"destinations": {}}, ".destinations is empty"),
        ({"destinations": {"a b": {"ntfy": "https://n/t"}}}, ".destinations.a b can't be a destination"),
        ({"destinations": {"x": {}}}, ".destinations.x must have one of the keys webhook,"),
        ({"destinations": {"x": {"ntfy": "https://n/t", "webhook": "https://n/t"}}}, ".destinations.x must have one"),
        ({"destinations": {"x": {"ntfy": "https://n/t", "tokn": "a"}}}, ".destinations.x has the unknown key 'tokn'"),
        ({"destinations": {"x": {"webhook": SECRET_URL}}}, ".destinations.x.webhook would send every text unencrypted"),
        ({"destinations": {"x": {"webhook": "ftp://s3cret"}}}, ".destinations.x.webhook must be a URL such as https:"),
        ({"destinations": {"x": {**MAIL, "email": []}}}, ".destinations.x.email must be a list of e-mail addresses"),
        ({"destinations": {"x": {**MAIL, "email": ["a\nBcc: b@c"]}}}, ".destinations.x.email must be a list of"),
        ({"destinations": {"x": {**MAIL, "sender": "ana"}}}, ".destinations.x.sender must be an e-mail address"),
        ({"destinations": {"x": {**MAIL, "server": "smtp"}}}, ".destinations.x.server must be the SMTP server and"),
        ({"destinations": {"x": {**MAIL, "encryption": "none"}}}, ".destinations.x.encryption is none, which would"),
        ({"destinations": {"x": {**MAIL, "encryption": "ssl"}}}, ".destinations.x.encryption must be starttls, tls,"),
        ({"destinations": {"x": {**MAIL, "user": "u"}}}, ".destinations.x must have both user and password_file"),
        ({"destinations": {"x": MAIL}, "host": "pc3"}, " has the host 'pc3'; name the one where it runs as `host`: "),
        ({"destinations": {"x": MAIL}, "timezone": "../x"}, ".timezone must be the name of a time zone"),
        ({"destinations": {"x": MAIL}, "quiet_hours": "22:00"}, ".quiet_hours must be a time of day in quotes"),
        ({"destinations": {"x": MAIL}, "digest": 1080}, ".digest must be a time of day in quotes"),
        ({"destinations": {"x": MAIL}, "digest": "25:00"}, ".digest must be a time of day in quotes"),
        ({"destinations": {"x": MAIL}, "quiet_lets_through": "all"}, ".quiet_lets_through must be broken or nothing"),
        ({"destinations": {"x": MAIL}, "every": 1}, " has the unknown key 'every'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, section: Any, complaint: str) -> None:
    sentence = refused(tmp_path, {**GOOD, "notify": section})
    assert sentence.startswith(f"notify{complaint}")
    assert "s3cret" not in sentence
