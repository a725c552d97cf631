"""The text of a trust bundle, and what is in it: any other text is refused by one typed error."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.identities import new_pair
from twinhost.agent.trust import TrustDocument, TrustFolder
from twinhost.certificates.bundle import TrustMaterial, parse_bundle, render_bundle
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.errors import KeyFileMalformed, MalformedRequest
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import parse_certificate

PAIRS = [
    new_pair("pc2-agent"),
    new_pair("SystemDigitalTwin", "mainpc"),
    new_pair("another", "pc3", "agent", "operator"),
]
CERTIFICATES = tuple(pair.certificate for pair in PAIRS)
FINGERPRINTS = frozenset({new_pair().public.fingerprint})
MATERIAL = TrustMaterial(CERTIFICATES[0], CERTIFICATES[:2], CERTIFICATES[2:], FINGERPRINTS)
BUNDLE = render_bundle(MATERIAL)
KEY_TEXT = render_certificate(CERTIFICATES[0])


def test_what_was_written_is_read_again() -> None:
    assert parse_bundle(BUNDLE, "a file") == MATERIAL


@given(st.text())
@example("\ud800")
@example("[" * 100_000)
def test_any_text_is_a_bundle_or_malformed(text: str) -> None:
    with pytest.raises(KeyFileMalformed):
        parse_bundle(text, "a file")


@given(st.integers(0, len(BUNDLE)), st.integers(0, 60), st.text(max_size=40))
def test_any_damage_is_malformed_or_another_bundle(at: int, length: int, instead: str) -> None:
    """A stretch replaced by anything; what is still read can be written, and read again."""
    with suppress(KeyFileMalformed):
        material = parse_bundle(BUNDLE[:at] + instead + BUNDLE[at + length :], "a file")
        assert parse_bundle(render_bundle(material), "again") == material


TEXTS = st.lists(
    st.sampled_from([*map(render_certificate, CERTIFICATES), "", "SHA256:"])
    | st.text(max_size=60)
    | st.builds(lambda at, to: KEY_TEXT[:at] + to + KEY_TEXT[at + 1 :], st.integers(0, len(KEY_TEXT)), st.characters()),
    max_size=4,
).map(tuple)
MARKS = st.lists(st.sampled_from([*FINGERPRINTS, "SHA256:" + "A" * 43]) | st.text(max_size=60), max_size=3).map(tuple)


@given(TEXTS, TEXTS, MARKS)
def test_any_trust_document_is_followed_or_refused_whole(
    tmp_path_factory: pytest.TempPathFactory,
    current: tuple[str, ...],
    following: tuple[str, ...],
    revoked: tuple[str, ...],
) -> None:
    """Where it is refused for what is in it nothing is changed; whatever is put in place is what it says."""
    folder = tmp_path_factory.mktemp("trust") / "trust"
    trust = TrustFolder(folder, lambda _: None)
    try:
        trust.apply(TrustDocument("r", current, following, revoked))
    except MalformedRequest:
        assert [path.name for path in folder.rglob("*") if path.is_file()] == []
        return
    contents = read_folders([folder])
    distributed = {parse_certificate(text, "a text") for text in (*current, *following)}
    assert {*contents.current.values(), *contents.next.values()} <= distributed
    assert contents.revoked == set(revoked)
