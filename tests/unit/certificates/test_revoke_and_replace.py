"""Revoking: a public file becomes what revokes its key, mainpc's first; there is no way back but a new key."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.loopback.agent_processes import SmallVolume
from tests.unit.certificates.trees import BOTH_HOSTS, certs_init, dies_at, files, tree_layout
from twinhost.certificates.revoke import replace_revoked, revoke
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.key_writer import (
    render_certificate,
    replace_certificate,
    revoked_file_name,
    write_key_pair,
    write_revocation,
)
from twinhost.secure_zmq.keys import DAY_S, Validity, load_certificate, load_key_pair

UMRA = "UnifiedMemoryReasoningAgent"
pytestmark = pytest.mark.usefixtures("nothing_listens")
FOLDERS = ("mainpc", "pc2", "operator")
NOTHING_RUNS = [
    f"{host}: {agent} does not run; the revocation is in its folder here and applies from its next start"
    for host, agent in (("mainpc", "SystemDigitalTwin"), ("pc2", UMRA))
]


def let_in(tree: Path) -> set[str]:
    """Return the names that SystemDigitalTwin accepts, as it reads its folders."""
    contents = read_folders([tree / "mainpc", tree / "mainpc/enrolled"])
    assert contents.rejected == []
    return set(contents.current) | set(contents.next)


def kept_out(tree: Path, fingerprint: str) -> list[str]:
    """Return the folders that keep a key out."""
    return [folder for folder in FOLDERS if (tree / folder / "revoked" / revoked_file_name(fingerprint)).exists()]


def test_a_revoked_key_is_refused_everywhere(tree: Path) -> None:
    """A marker in every folder, no public file in any, its fingerprint in the output; the secret stays as evidence."""
    key = load_certificate(tree / "pc2/client.key").public.fingerprint
    ran = certs_init(tree, "revoke", UMRA)
    assert (ran.status, ran.lines[0]) == (0, f"revoked: {key} {UMRA} on pc2 (agent)")
    assert ran.lines[1:4] == [f"removed: {tree}/{folder}/client.key" for folder in FOLDERS]
    assert ran.lines[4:] == NOTHING_RUNS
    assert kept_out(tree, key) == list(FOLDERS)
    assert let_in(tree) == {"SystemDigitalTwin", "operator"}
    assert list(tree.rglob("client.key")) == []
    assert (tree / "pc2/client.key_secret").exists()
    assert f"certs-init replace {UMRA}" in ran.err


@pytest.mark.thorough
def test_mainpc_refuses_it_before_any_file_goes(tree: Path) -> None:
    """Wherever a kill comes, a folder has the public file or what revokes the key, and mainpc's is the first to."""
    key, step, alive = load_certificate(tree / "pc2/client.key").public.fingerprint, 1, False
    while not alive:
        root = tree.parent / str(step)
        shutil.copytree(tree, root)
        alive = not dies_at(step, revoke, tree_layout(root), UMRA)
        out = kept_out(root, key)
        assert out == list(FOLDERS)[: len(out)] or out in (["mainpc", "operator"], ["mainpc", "operator", "pc2"])
        assert [folder for folder in FOLDERS if (root / folder / "client.key").exists()] == [
            folder for folder in FOLDERS if folder not in out
        ]
        revoke(tree_layout(root), UMRA)
        assert (kept_out(root, key), list(root.rglob("client.key"))) == (list(FOLDERS), [])
        assert certs_init(root, "verify").status == 0
        step += 1
    assert step > 6


def test_a_full_volume_keeps_no_revoked_key_alive(tmp_path: Path) -> None:
    """The public files go all the same; what could not be written is named, and written by the next run."""
    root, pair = tmp_path / "tree", new_pair("Sensor", "pc3")
    root.mkdir()
    with SmallVolume(root) as volume:
        certs_init(root)
        replace_certificate(pair.certificate, root / "mainpc/enrolled/Sensor.key")
        volume.fill()
        ran = certs_init(root, "revoke", "Sensor")
        assert (ran.status, "Sensor" in let_in(root)) == (1, False)
        assert kept_out(root, pair.public.fingerprint) == ["mainpc"]
        assert ran.lines[:2] == [
            f"revoked: {pair.public.fingerprint} Sensor on pc3 (agent)",
            f"removed: {root}/mainpc/enrolled/Sensor.key",
        ]
        sentence = (
            f"certs-init: {root}/pc2/revoked can't be written (No space left on device), so {pair.public.fingerprint} "
            f"is not revoked there; free space on the volume, and run: certs-init revoke {pair.public.fingerprint}"
        )
        assert sentence in ran.err.splitlines()
        volume.empty()
        assert certs_init(root, "revoke", pair.public.fingerprint).status == 0
        assert kept_out(root, pair.public.fingerprint) == list(FOLDERS)


def test_a_fingerprint_alone_is_not_revoked_on_a_full_volume(tmp_path: Path) -> None:
    """Nothing says that it is, and the exit status and a sentence say that it is not."""
    root, key = tmp_path / "tree", new_pair().public.fingerprint
    root.mkdir()
    with SmallVolume(root) as volume:
        certs_init(root)
        volume.fill()
        ran = certs_init(root, "revoke", key)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.count(f"so {key} is not revoked there") == len(FOLDERS)


def test_a_second_time_it_says_so(tree: Path) -> None:
    """Exit 0, and nothing changes."""
    certs_init(tree, "revoke", UMRA)
    before = files(tree)
    ran = certs_init(tree, "revoke", UMRA)
    assert (ran.status, files(tree)) == (0, before)
    assert ran.lines[0].startswith("already revoked: SHA256:")
    assert ran.lines[1:] == NOTHING_RUNS


def test_another_machines_key_is_revoked_by_name_twice(tmp_path: Path) -> None:
    """Nothing of it is left but the marker, which says whose it was."""
    root, pair = tmp_path / "tree", new_pair(UMRA, "pc2")
    certs_init(root, host="mainpc")
    certs_init(root, "trust", "-", host="mainpc", stdin=render_certificate(pair.certificate).encode())
    first, second = (certs_init(root, "revoke", UMRA, host="mainpc") for _ in range(2))
    assert (first.status, second.status) == (0, 0)
    assert second.lines[:2] == [f"already revoked: {pair.public.fingerprint} {UMRA} on pc2 (agent)", NOTHING_RUNS[0]]
    assert second.lines[2:] == [
        f"pc2: {UMRA} no longer has a key, so mainpc can't notify it, and it may accept the key itself; stop it, or "
        "give it a new key"
    ]


def test_by_fingerprint(tree: Path) -> None:
    """The one key alone, whoever has it."""
    key = load_certificate(tree / "operator/operator.key").public.fingerprint
    ran = certs_init(tree, "revoke", key)
    assert (ran.status, ran.lines[0]) == (0, f"revoked: {key} operator on mainpc (operator)")
    assert let_in(tree) == {"SystemDigitalTwin", UMRA}


def test_an_unknown_fingerprint_is_revoked_and_reported_as_such(tree: Path) -> None:
    """A key that was removed long ago, or comes later."""
    key = new_pair().public.fingerprint
    ran = certs_init(tree, "revoke", key)
    assert (ran.status, ran.out) == (0, "\n".join([f"revoked: {key} of an unknown owner", *NOTHING_RUNS, ""]))
    assert kept_out(tree, key) == list(FOLDERS)
    assert "already revoked" in certs_init(tree, "revoke", key).out
    assert certs_init(tree, "verify").status == 0


def test_whoever_enrolled_is_revoked_with_the_next_key_too(tree: Path) -> None:
    """Every key of the name: in `enrolled/`, and the one that a rotation brought."""
    current, following = (new_pair("Sensor", "pc3").certificate for _ in range(2))
    replace_certificate(current, tree / "mainpc/enrolled/Sensor.key")
    replace_certificate(following, tree / "mainpc/enrolled/Sensor.next.key")
    ran = certs_init(tree, "revoke", "Sensor")
    assert ran.status == 0
    assert set(ran.fingerprints) == {current.public.fingerprint, following.public.fingerprint}
    assert list((tree / "mainpc/enrolled").glob("*.key")) == []
    assert "Sensor" not in let_in(tree)


def test_the_next_pair_of_a_rotation_is_revoked_too(tree: Path) -> None:
    """Its secret lies beside the one that is revoked; it must not become the way back."""
    following = new_pair(UMRA, "pc2")
    write_key_pair(following, tree / "pc2/client.next.key_secret")
    assert following.public.fingerprint in certs_init(tree, "revoke", UMRA).fingerprints
    assert kept_out(tree, following.public.fingerprint) == list(FOLDERS)


@pytest.mark.parametrize("owner", ["SystemDigitalTwin", "its fingerprint"])
def test_the_server_is_not_revoked(tree: Path, owner: str) -> None:
    """No peer could be notified of it; rotation is the way."""
    before = files(tree)
    fingerprint = load_certificate(tree / "mainpc/server.key").public.fingerprint
    ran = certs_init(tree, "revoke", fingerprint if owner == "its fingerprint" else owner)
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert "rotate it: certs-init rotate server" in ran.err


@pytest.mark.parametrize("owner", ["nobody", "", "client", "SHA256:short", "../operator"])
def test_an_unknown_name_changes_nothing(tree: Path, owner: str) -> None:
    """Exit 1, with the names that there are."""
    before = files(tree)
    ran = certs_init(tree, "revoke", owner)
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert f"there is no key of {owner!r} here; there are keys of: {UMRA}, operator" in ran.err


def test_an_open_invitation_of_the_name_is_reported(tree: Path) -> None:
    """It is another way in, and `reject` closes it."""
    certs_init(tree, "revoke", UMRA)
    assert certs_init(tree, "invite", UMRA, "--host", "pc2", "--role", "agent").status == 0
    ran = certs_init(tree, "revoke", UMRA)
    assert (ran.status, f"{UMRA} has an open invitation; to end it: certs-init reject" in ran.err) == (0, True)


def test_make_distributes_no_revoked_key(tree: Path) -> None:
    """It says so, and what to do; exit 0, so that the others start."""
    certs_init(tree, "revoke", UMRA)
    before = files(tree)
    ran = certs_init(tree)
    assert (ran.status, ran.err, files(tree)) == (0, "", before)
    assert ran.lines[1].split()[3] == "revoked"
    assert "was revoked permanently: no host accepts it." in ran.out
    assert f"certs-init replace {UMRA}" in ran.out
    assert "public: server.key, client.key" not in ran.out


def test_make_says_how_another_machines_revoked_agent_comes_back(tmp_path: Path) -> None:
    """By an invitation; its secret is not here."""
    root, pair = tmp_path / "tree", new_pair(UMRA, "pc2")
    certs_init(root, host="mainpc")
    certs_init(root, "trust", "-", host="mainpc", stdin=render_certificate(pair.certificate).encode())
    certs_init(root, "revoke", UMRA, host="mainpc")
    ran = certs_init(root, host="mainpc")
    assert (ran.status, ran.lines[2].split()[3]) == (0, "revoked")
    assert f"certs-init invite {UMRA} --host pc2 --role agent" in ran.out
    assert certs_init(root, "verify", host="mainpc").status == 0


def test_a_tree_without_mainpc_names_mainpcs_commands(tmp_path: Path) -> None:
    """Only mainpc authorises another key, so pc2's tree advises `invite` on mainpc instead of `replace` or `revoke`."""
    root, secret = tmp_path / "tree", tmp_path / "tree/pc2/client.key_secret"
    certs_init(root, host="pc2")
    pair = load_key_pair(secret)
    expired = replace(pair, certificate=replace(pair.certificate, validity=Validity(not_after=1)))
    secret.unlink()
    write_key_pair(expired, secret)
    replace_certificate(expired.certificate, root / "pc2/client.key")
    invite, join = f"certs-init invite {UMRA} --host pc2 --role agent", "certs-init join --replace -"
    verified = certs_init(root, "verify", host="pc2").out
    assert f"on mainpc, run: certs-init revoke {UMRA}, then: {invite}, and on pc2: {join}" in verified
    write_revocation(expired.certificate, root / "pc2/revoked")
    assert f"For a new one, on mainpc, run: {invite}, and on pc2: {join}" in certs_init(root, host="pc2").out
    assert f"for a new key, on mainpc, run: {invite}, and on pc2: {join}" in certs_init(root, "verify", host="pc2").out


def test_no_command_brings_a_revoked_key_back(tree: Path) -> None:
    """Neither trust, nor accept, nor public, nor make; a public file that somebody puts back lets nobody in."""
    public = certs_init(tree, "public", "client").out
    certs_init(tree, "revoke", UMRA)
    before = files(tree)
    for ran in (
        certs_init(tree, "trust", "-", stdin=public.encode()),
        certs_init(tree, "accept", "-", stdin=public.encode()),
        certs_init(tree, "public", "client"),
    ):
        assert (ran.status, ran.out, files(tree)) == (1, "", before)
        assert "which was revoked permanently; make a new one" in ran.err
    (tree / "mainpc/client.key").write_text(public)
    assert certs_init(tree).status == 0
    assert UMRA not in let_in(tree)
    remarks = certs_init(tree, "verify").lines
    assert f"remark: {tree}/mainpc/client.key is a revoked key of {UMRA}, and authorises nobody" in remarks


def test_replace_makes_a_new_key_in_its_place(tree: Path) -> None:
    """It is distributed as make does; the revoked one stays out, and the tree is right without a remark."""
    old = load_key_pair(tree / "pc2/client.key_secret")
    certs_init(tree, "revoke", UMRA)
    ran = certs_init(tree, "replace", UMRA, "--days", "30")
    new = load_key_pair(tree / "pc2/client.key_secret")
    assert (ran.status, ran.fingerprints) == (0, [new.public.fingerprint])
    assert new.public != old.public
    validity = new.certificate.validity
    assert (validity.not_after or 0) - (validity.not_before or 0) == 30 * DAY_S
    assert {load_certificate(path) for path in tree.rglob("client.key")} == {new.certificate}
    assert let_in(tree) == {"SystemDigitalTwin", "operator", UMRA}
    assert {name for name in files(tree) if "/revoked/" not in name} == BOTH_HOSTS
    assert certs_init(tree, "verify").lines == [f"{tree}: 3 folders are correct"]
    assert "created" not in certs_init(tree).out


def test_replace_of_a_good_key_changes_nothing(tree: Path) -> None:
    """Rotation is the way to change one."""
    before = files(tree)
    ran = certs_init(tree, "replace", UMRA)
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert "is not revoked, so it is kept; to change it: certs-init rotate client" in ran.err


def test_replace_of_who_is_not_here_says_how(tmp_path: Path) -> None:
    """Its secret is made on its own machine."""
    certs_init(tmp_path, host="mainpc")
    ran = certs_init(tmp_path, "replace", UMRA, host="mainpc")
    assert (ran.status, ran.out) == (1, "")
    assert f"certs-init invite {UMRA} --host HOST --role ROLE, and there: certs-init join --replace -" in ran.err


def test_replace_after_an_enrolment_elsewhere_changes_nothing(tree: Path) -> None:
    """Two keys under one name would be one too many."""
    certs_init(tree, "revoke", UMRA)
    replace_certificate(new_pair(UMRA, "pc2").certificate, tree / "mainpc/enrolled" / f"{UMRA}.key")
    before = files(tree)
    ran = certs_init(tree, "replace", UMRA)
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert "made elsewhere; revoke it first" in ran.err


@pytest.mark.thorough
def test_killed_at_any_step_replace_ends_well_the_next_time(tree: Path) -> None:
    """One secret, distributed to all, and never the revoked one."""
    certs_init(tree, "revoke", UMRA)
    old, step, alive = load_key_pair(tree / "pc2/client.key_secret").public, 1, False
    while not alive:
        root = tree.parent / str(step)
        shutil.copytree(tree, root)
        alive = not dies_at(step, replace_revoked, tree_layout(root), UMRA)
        again = certs_init(root, "replace", UMRA)
        assert again.status == 0 or "is not revoked, so it is kept" in again.err
        new = load_key_pair(root / "pc2/client.key_secret")
        assert new.public != old
        assert {load_certificate(path) for path in root.rglob("client.key")} == {new.certificate}
        assert certs_init(root, "verify").lines == [f"{root}: 3 folders are correct"]
        step += 1
    assert step > 20


def test_a_key_of_another_machine_is_rotated_there(tree: Path) -> None:
    """A misspelled name is seen beside those that are here, and a program learns how its key is replaced."""
    ran = certs_init(tree, "rotate", "client", "laptop")
    assert ran.status == 1
    assert ran.err == (
        "certs-init: this tree has no secret of laptop, but of SystemDigitalTwin, UnifiedMemoryReasoningAgent, "
        "operator; run this on the machine that has it; a program's key is replaced by: twinhost join --replace LINE\n"
    )


@pytest.mark.parametrize(
    ("words", "missing", "sentence"),
    [
        (("server",), "mainpc", "mainpc/server.key is missing; run: "),
        (("client", UMRA), "pc2", "pc2 has no valid key of SystemDigitalTwin; run: "),
    ],
)
def test_a_rotation_without_the_servers_key_makes_nothing(
    tree: Path, words: tuple[str, ...], missing: str, sentence: str
) -> None:
    """The old key could not be revoked, or mainpc not be asked."""
    (tree / missing / "server.key").unlink()
    before = files(tree)
    ran = certs_init(tree, "rotate", *words)
    assert (ran.status, files(tree)) == (1, before)
    assert sentence in ran.err


def test_a_rotated_key_is_taken_up_by_make(tree: Path) -> None:
    """What SystemDigitalTwin retired gives way in every folder to the key that took its place."""
    old = load_certificate(tree / "pc2/client.key")
    new = new_pair(UMRA, "pc2")
    (tree / "pc2/client.key_secret").unlink()
    (tree / "pc2/client.key").unlink()
    write_key_pair(new, tree / "pc2/client.key_secret")
    replace_certificate(new.certificate, tree / "mainpc/enrolled" / f"{UMRA}.key")
    replace_certificate(old, tree / "mainpc/enrolled/revoked" / revoked_file_name(old.public.fingerprint))
    assert certs_init(tree).status == 0
    assert load_certificate(tree / "operator/client.key") == new.certificate
    assert let_in(tree) == {"SystemDigitalTwin", "operator", UMRA}
    assert certs_init(tree, "verify").status == 0
