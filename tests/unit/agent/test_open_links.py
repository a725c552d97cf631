"""The trouble of an open link, on one host or on all, and what it explains."""

from twinhost.agent.open_links import open_links
from twinhost.agent.troubles import Level


def test_each_open_link_names_its_host_and_fix() -> None:
    assert [*open_links("mainpc", secure=True, others=["pc2"], mismatched=[])] == []
    (pc2,) = open_links("mainpc", secure=True, others=[], mismatched=["pc2"])
    assert (pc2.id, pc2.level, pc2.remedies[0].on) == ("link_open:pc2", Level.BROKEN, "pc2")
    silence = {f"{kind}:{host}" for kind in ("host_silent", "host_stopped") for host in ("mainpc", "pc2")}
    assert {*pc2.explains} == {*silence, "refusals:mainpc/unencrypted", "refusals:pc2/unencrypted"}
    (mainpc,) = open_links("mainpc", secure=False, others=[], mismatched=["pc2"])
    assert (mainpc.id, mainpc.level, mainpc.remedies[0].on) == ("link_open:mainpc", Level.BROKEN, "mainpc")
    assert "host_silent:pc2" in mainpc.explains
    (both,) = open_links("mainpc", secure=False, others=["pc2"], mismatched=[])
    assert (both.id, both.level) == ("link_open:mainpc", Level.ATTENTION)
    assert "open on mainpc and pc2" in both.what
    assert [remedy.on for remedy in both.remedies] == ["mainpc", "pc2"]
