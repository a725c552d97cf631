"""The line of an invitation: what was written is read again, and whatever else a person may paste is refused."""

import string
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twinhost.certificates.bundle import Invitation, parse_invitation, token_pair
from twinhost.network_config import Host
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.keys import PublicKey

SERVER = PublicKey(bytes(range(32)))
SECRET = bytes(range(100, 132))
LINE = Invitation(("10.0.0.1:7120",), SERVER, token_pair(SECRET), 1_795_582_800).render()
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.sampled_from(["mainpc", "mainpc.example.org", "main_pc", "a-b.c", "xn--bcher-kva.example"]),
)
KEYS = st.binary(min_size=32, max_size=32).filter(any)
MOMENTS = st.integers(min_value=0, max_value=253_402_300_799)


def refusal(text: str) -> str:
    """Return the sentence with which a line is refused."""
    with pytest.raises(ConfigurationError) as refused:
        parse_invitation(text)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert LINE.split("/")[-1].partition("?")[0] not in sentence
    return sentence


@given(ADDRESSES, st.integers(1, 65_535), KEYS, KEYS, MOMENTS)
def test_what_was_written_is_read_again(address: str, port: int, server: bytes, secret: bytes, moment: int) -> None:
    """Every part, IPv6 addresses in brackets, that of a standby; spaces around the line do no harm."""
    host = Host("mainpc", address)
    for authorities in ((host.authority(port),), (host.authority(port), "192.0.2.20:7121")):
        written = Invitation(authorities, PublicKey(server), token_pair(secret), moment)
        for line in (written.render(), f"  {written.render()}\r\n"):
            assert parse_invitation(line) == written
        assert parse_invitation(written.render()).endpoints[0] == host.endpoint(port)


def test_the_line_is_as_documented() -> None:
    """Scheme, address, two keys of 43 characters, and the moment."""
    head, _, query = LINE.partition("?")
    scheme, _, authority, server, token = head.split("/")
    assert (scheme, authority, len(server), len(token)) == ("twinhost:", "10.0.0.1:7120", 43, 43)
    assert query == "expires=2026-11-25T05:00:00Z"


def test_without_the_standby_s_address_it_is_the_line_of_before() -> None:
    """Which an older version reads; no character of it means anything to a shell that the others don't."""
    both = replace(parse_invitation(LINE), authorities=("10.0.0.1:7120", "[2001:db8::2]:7121")).render()
    assert both.replace(",[2001:db8::2]:7121", "") == LINE


@pytest.mark.parametrize("authorities", ["10.0.0.1:7120,", ",10.0.0.1:7120", "10.0.0.1:7120,,10.0.0.2:7120", "a:1,b"])
def test_an_address_that_is_cut_out_is_noticed(authorities: str) -> None:
    assert "is mistyped at mainpc's ADDRESS:PORT" in refusal(LINE.replace("10.0.0.1:7120", authorities))


def test_a_line_that_is_cut_off_is_refused_at_every_length() -> None:
    """The sentence says where it ends, and what to copy."""
    for length in range(len(LINE)):
        sentence = refusal(LINE[:length])
        assert "copy the whole line that certs-init invite printed" in sentence, length
        assert length <= len("twinhost://") or "is cut off" in sentence, length


@given(st.integers(0, len(LINE) - 1), st.sampled_from(" \n\t!$%=+?/#:,.ä~"))
@example(LINE.index("?"), "/")
def test_a_wrong_character_is_refused_or_read_as_another_line(position: int, character: str) -> None:
    """No slip leads to the same invitation, and none to anything but an invitation or one sentence."""
    mistyped = LINE[:position] + character + LINE[position + 1 :]
    if mistyped.strip() == LINE:
        return
    with suppress(ConfigurationError):
        assert parse_invitation(mistyped).render() == mistyped.strip() != LINE


@given(st.text(max_size=600))
@example("")
@example("twinhost://" + "a" * 600)
@example("twinhost://[::1:7120/" + "A" * 43)
@example("twinhost://:/" + "//")
def test_any_other_text_is_one_sentence(text: str) -> None:
    """Nothing but ConfigurationError comes out."""
    refusal(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + "/?=:_-.[]%", max_size=200))
def test_any_text_behind_the_scheme_is_one_sentence(text: str) -> None:
    """Nor where it begins well."""
    refusal(f"twinhost://{text}")


@pytest.mark.parametrize(
    ("mistyped", "sentence"),
    [
        ("https://10.0.0.1:7120/x", "not an invitation, which begins with twinhost://"),
        (LINE.replace("10.0.0.1", "10.0.0"), "is mistyped at mainpc's ADDRESS:PORT"),
        (LINE.replace("10.0.0.1", "::1"), "is mistyped at mainpc's ADDRESS:PORT"),
        (LINE.replace("10.0.0.1", "[10.0.0.1]"), "is mistyped at mainpc's ADDRESS:PORT"),
        (LINE.replace(":7120", ":07120"), "is mistyped at mainpc's ADDRESS:PORT"),
        (LINE.replace(":7120", ":70000"), "is mistyped at mainpc's ADDRESS:PORT"),
        (LINE.replace("AAECAw", "AAEC+w"), "the server's key in the invitation is mistyped"),
        (LINE.replace("?", "x?"), "the token in the invitation is mistyped"),
        (LINE.replace("?", "/more?"), "too many parts"),
        (LINE.replace("expires", "until"), "cut off or mistyped at its end"),
        (LINE.replace("-11-25T", "-13-25T"), "cut off or mistyped at its end"),
        (LINE[:-1] + "+00:00", "cut off or mistyped at its end"),
        (f"{LINE}&more=1", "cut off or mistyped at its end"),
        (f"{LINE}\n{LINE}", "more than one line"),
        (LINE.replace(":7120/", ":7120 /"), "more than one line, or a space"),
    ],
)
def test_a_mistyped_line_says_which_part_is_wrong(mistyped: str, sentence: str) -> None:
    """One sentence that names the part."""
    assert sentence in refusal(mistyped)


def test_a_server_key_of_zeros_is_no_key() -> None:
    """It would be pinned otherwise."""
    assert "the server's key in the invitation is not a key" in refusal(LINE.replace(LINE.split("/")[3], "A" * 43))


def test_a_token_of_zeros_is_no_key() -> None:
    """It would be everybody's."""
    token = LINE.split("/")[4].partition("?")[0]
    assert "the token in the invitation is not a key" in refusal(LINE.replace(token, "A" * 43))


@given(KEYS)
def test_a_key_has_one_spelling(raw: bytes) -> None:
    """The last character's spare bits must be zero, so that no slip there goes unseen."""
    line = Invitation(("mainpc:7120",), PublicKey(raw), token_pair(SECRET), 0).render()
    key = line.split("/")[3]
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    other = alphabet[alphabet.index(key[-1]) | 1]
    assert "mistyped" in refusal(line.replace(key, key[:-1] + other))


def test_the_secret_is_in_no_repr() -> None:
    """A traceback or a log shows nothing of it."""
    invitation = parse_invitation(LINE)
    assert invitation.token.secret_z85.decode() not in repr(invitation)
    assert LINE.split("/")[4][:43] not in repr(invitation)
