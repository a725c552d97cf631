"""pc2 witnesses mainpc's audit log: a log that was rewritten on mainpc's volume is an alarm, a restore is named."""

import hashlib
import json
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import fork_server
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.older_database import downgrade
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.membership.member import HEADS_FILE
from twinhost.store.audit_log.chain import NO_HASH
from twinhost.store.audit_log.files import MIGRATION_RESTORES
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.state_files import MIGRATIONS

pytestmark = pytest.mark.sdt_security

Record = dict[str, Any]


def cli(hosts: Hosts, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line with the operator's key."""
    environment = {**hosts.environment(SDT), "TWINHOST_CERTIFICATES": str(hosts.folder("operator"))}
    command = ["twinhost.cli", *arguments]
    return fork_server.run(command, env=environment, text=True)


def archive(hosts: Hosts, *arguments: str, given: bytes = b"") -> bytes:
    """Run the archive command on mainpc; it must succeed."""
    environment = {
        **hosts.environment(SDT),
        "TWINHOST_CERTIFICATES": str(hosts.keys),
        "TWINHOST_HOST": "mainpc",
    }
    command = ["twinhost.cli.archive", *arguments]
    done = fork_server.run(command, env=environment, input=given)
    assert done.returncode == 0, done.stderr
    return bytes(done.stdout)


def heads(hosts: Hosts) -> list[Record]:
    """Return the heads that pc2 keeps."""
    path = hosts.root / UMRA / f"{UMRA}.{HEADS_FILE}"
    return json.loads(path.read_bytes())["heads"] if path.exists() else []


def log_grows(hosts: Hosts, sessions: int = 3) -> None:
    """Have lines in the log, and wait until pc2 has seen the newest of them."""
    with hosts.client(SDT) as client:
        before = newest = client.call("get_audit")["head"]["seq"]
        for _ in range(sessions):
            with hosts.client(SDT) as another:
                another.call("ping")
        until = time.monotonic() + PATIENCE_S
        while newest == before:  # a handshake's line is written at the loop's next tick
            assert time.monotonic() < until, "the log does not grow"
            newest = client.call("get_audit")["head"]["seq"]
    wait_until(lambda: bool(heads(hosts)) and heads(hosts)[-1]["seq"] >= newest, PATIENCE_S, "pc2 has seen the log")


def rewrite(hosts: Hosts, change: Callable[[list[Record]], list[Record]]) -> None:
    """Rewrite the log as somebody may who can write mainpc's volume: numbers, chain, and head fit together."""
    (path,) = (hosts.root / SDT / "audit").glob("audit-*.jsonl")
    records = change([json.loads(line) for line in path.read_text().splitlines()])
    prev, lines = NO_HASH, []
    for number, record in enumerate(records, 1):
        fields = {name: value for name, value in record.items() if name not in ("seq", "prev", "hash")}
        body = json.dumps({"seq": number, **fields, "prev": prev}, separators=(",", ":"))
        prev = hashlib.sha256(body.encode()).hexdigest()
        lines.append(f'{body[:-1]},"hash":"{prev}"}}\n')
    path.write_text("".join(lines))
    with closing(sqlite3.connect(hosts.database(SDT))) as database:
        database.execute("UPDATE audit_head SET seq = ?, hash = ?", (len(lines), prev))
        database.execute("DELETE FROM audit_outbox")
        database.commit()


def without_line_4(records: list[Record]) -> list[Record]:
    return records[:3] + records[4:]


def without_the_line_after_the_restore(records: list[Record]) -> list[Record]:
    after = 1 + next(number for number, record in enumerate(records) if record["event"] == "restored")
    return records[:after] + records[after + 1 :]


def failed_check(agent: AgentProcess) -> str:
    """Return what the check of the witness says where it fails, else an empty string."""
    check = agent.health().get("checks", {}).get("audit_witness", {"ok": True})
    return "" if check["ok"] else str(check["detail"])


def alarm(agent: AgentProcess) -> str:
    wait_until(lambda: failed_check(agent), PATIENCE_S, "the alarm")
    return failed_check(agent)


def listed(mainpc: AgentProcess) -> list[str]:
    """Return the ids of the attention list."""
    return [item["id"] for item in mainpc.http("/api/state")[1]["attention"]["items"]]


def metrics(hosts: Hosts, agent: str) -> str:
    url = f"http://127.0.0.1:{hosts.config.agent(agent).http_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def test_a_rewritten_log_is_an_alarm_on_both_hosts(hosts: Hosts) -> None:
    """A line removed, the rest chained again, the head updated: `audit verify`, health, page and metrics say so."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    assert cli(hosts, "audit", "verify").returncode == 0
    mainpc.terminate()
    rewrite(hosts, without_line_4)
    mainpc = hosts.start(SDT).wait_until_serving()

    sentence = alarm(mainpc)
    assert f"as {UMRA} has seen it" in sentence
    assert "mainpc's audit log no longer has line" in alarm(pc2)
    wait_until(lambda: sentence in mainpc.http("/api/state")[1]["warnings"], PATIENCE_S, "the page warns")
    for name in (SDT, UMRA):
        wait_until(lambda name=name: 'twinhost_check_ok{check="audit_witness"} 0.0' in metrics(hosts, name), 10, "0")  # type: ignore[misc]
    status = cli(hosts, "status")
    assert (status.returncode, f"mainpc's audit log is not the one that {UMRA} has seen" in status.stdout) == (2, True)
    verified = cli(hosts, "audit", "verify", "--json")
    document = json.loads(verified.stdout)
    assert (verified.returncode, document["code"], document["findings"]) == (1, "audit_log_contradicted", [])
    assert document["witnesses"][0]["verdict"] == "contradicted"
    assert "the log agrees up to line" in cli(hosts, "audit", "verify").stderr


def test_a_restart_of_either_host_does_not_end_the_alarm(hosts: Hosts) -> None:
    """pc2's heads are on disk, and its next heartbeat raises the alarm again."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    mainpc.terminate()
    rewrite(hosts, without_line_4)
    mainpc = hosts.start(SDT).wait_until_serving()
    alarm(pc2)
    pc2.terminate()
    mainpc.terminate()
    mainpc, pc2 = hosts.start(SDT).wait_until_serving(), hosts.start(UMRA).wait_until_serving()
    assert alarm(mainpc)
    assert alarm(pc2)


def test_a_log_that_an_operator_accepts_ends_the_alarm(hosts: Hosts) -> None:
    """A state put back by hand is explained once; who accepted it stays listed, and the witness goes on from there."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    mainpc.terminate()
    rewrite(hosts, lambda records: records[:3])
    mainpc = hosts.start(SDT).wait_until_serving()
    alarm(mainpc)
    alarm(pc2)
    accepted = cli(hosts, "audit", "accept")
    assert (accepted.returncode, "as it was seen" in accepted.stdout) == (0, True), accepted.stderr
    wait_until(lambda: not failed_check(mainpc) and not failed_check(pc2), PATIENCE_S, "the alarms end")
    log_grows(hosts)
    verified = cli(hosts, "audit", "verify")
    assert verified.returncode == 0, verified.stderr
    assert "accepted by operator" in verified.stdout
    assert "nothing to accept" in cli(hosts, "audit", "accept").stdout


def test_a_restored_log_is_named_and_is_no_alarm(hosts: Hosts) -> None:
    """Both hosts warn until an operator acknowledges it; the line says which head the backup had."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    backup = archive(hosts, "backup", "-")
    log_grows(hosts, sessions=20)
    mainpc.terminate()
    archive(hosts, "restore", "-", "--replace", given=backup)
    mainpc = hosts.start(SDT).wait_until_serving()

    wait_until(lambda: "was restored from a backup" in str(pc2.health()["warnings"]), PATIENCE_S, "pc2 warns")
    wait_until(lambda: "restored:mainpc" in listed(mainpc), PATIENCE_S, "mainpc lists it")
    assert (failed_check(mainpc), failed_check(pc2)) == ("", "")
    assert cli(hosts, "status").returncode == 1
    verified = cli(hosts, "audit", "verify")
    assert verified.returncode == 0, verified.stderr
    assert "from a backup that ended with line" in verified.stdout
    with hosts.client(SDT) as client:
        records = [json.loads(line) for line in client.call("get_audit")["lines"]]
    (line,) = [record for record in records if record["event"] == "restored"]
    assert (line["backup_seq"], line["backup_hash"]) == (line["seq"] - 1, line["prev"])
    assert "the restore of" in cli(hosts, "audit", "accept").stdout
    wait_until(lambda: "restored" not in f"{pc2.health()['warnings']}{listed(mainpc)}", PATIENCE_S, "they stop")


def test_a_log_rewritten_after_a_restore_is_an_alarm(hosts: Hosts) -> None:
    """A restore that was seen explains nothing that was seen after it."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    backup = archive(hosts, "backup", "-")
    log_grows(hosts)
    mainpc.terminate()
    archive(hosts, "restore", "-", "--replace", given=backup)
    mainpc = hosts.start(SDT).wait_until_serving()
    wait_until(lambda: pc2.health().get("ready"), PATIENCE_S, "pc2 is back")
    log_grows(hosts)
    wait_until(lambda: any(head["restored"] for head in heads(hosts)), PATIENCE_S, "pc2 has seen the restore")
    mainpc.terminate()
    rewrite(hosts, without_the_line_after_the_restore)
    mainpc = hosts.start(SDT).wait_until_serving()
    assert alarm(mainpc)
    assert alarm(pc2)
    assert cli(hosts, "audit", "verify").returncode == 1


def test_a_false_restore_is_named_with_its_time(hosts: Hosts) -> None:
    """Who cuts the log and marks it as restored gets no alarm, and can't hide that a restore took place."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    mainpc.terminate()
    time = "2026-11-27T01:02:03.004Z"
    rewrite(hosts, lambda records: [*records[:3], {"time": time, "event": "restored"}])
    with closing(sqlite3.connect(hosts.database(SDT))) as database:
        database.execute("INSERT INTO audit_restores VALUES (4)")
        database.commit()
    hosts.start(SDT).wait_until_serving()
    wait_until(lambda: f"({time}, noticed here 20" in str(pc2.health()["warnings"]), PATIENCE_S, "pc2 warns")
    assert "noticed 20" in cli(hosts, "audit", "verify").stdout


def test_a_false_restore_does_not_cover_lines_before_it(hosts: Hosts) -> None:
    """What was seen before the line `restored` must still be there."""
    mainpc, pc2 = hosts.start_both()
    log_grows(hosts)
    mainpc.terminate()
    seen = heads(hosts)[0]["seq"]
    marked: list[int] = []

    def marked_as_restored(records: list[Record]) -> list[Record]:
        marked.append(len(records))
        return [*records[:1], *records[2:], {"time": "2026-11-27T01:02:03.004Z", "event": "restored"}]

    rewrite(hosts, marked_as_restored)
    assert seen < marked[0]
    with closing(sqlite3.connect(hosts.database(SDT))) as database:
        database.execute("INSERT INTO audit_restores VALUES (?)", marked)
        database.commit()
    mainpc = hosts.start(SDT).wait_until_serving()
    assert alarm(mainpc)
    assert alarm(pc2)


def test_state_of_the_version_before_goes_on(hosts: Hosts) -> None:
    """mainpc's database without the table of restores, pc2 without heads: no alarm, and the witness begins."""
    hosts.start_both()
    for process in hosts.processes:
        process.terminate()
    (hosts.root / UMRA / f"{UMRA}.{HEADS_FILE}").unlink(missing_ok=True)
    downgrade(hosts.database(SDT), [REPLY_LOG_SCHEMA, *MIGRATIONS[: MIGRATIONS.index(MIGRATION_RESTORES)]])
    hosts.start_both()
    log_grows(hosts)
    assert "it extends the" in cli(hosts, "audit", "verify").stdout


def test_verify_says_when_a_witness_could_not_be_asked(hosts: Hosts) -> None:
    """The chain is checked all the same; that nothing was compared is said."""
    _, pc2 = hosts.start_both()
    pc2.terminate()
    verified = cli(hosts, "audit", "verify", "--json")
    (witness,) = json.loads(verified.stdout)["witnesses"]
    assert (verified.returncode, witness["agent"], witness["verdict"]) == (0, UMRA, "not_compared")


def test_on_an_open_link_nothing_is_witnessed(tmp_path: Path) -> None:
    """Nobody is authenticated there, so nobody's heads would be worth anything."""
    with Hosts(tmp_path, secure=False) as hosts:
        _, pc2 = hosts.start_both()
        with hosts.client(SDT) as client:
            assert client.call("heartbeat", agent_name=UMRA)["audit_head"] is None
        assert heads(hosts) == []
        assert pc2.health()["status"] == "ok"
