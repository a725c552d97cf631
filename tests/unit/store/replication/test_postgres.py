"""Which DSNs are taken: none whose server would not be verified."""

import subprocess
import sys

import pytest
from psycopg.conninfo import conninfo_to_dict

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.replication.postgres import verified


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://log@db1,db2:5433/twinhost?sslmode=verify-full&sslrootcert=ca.pem",
        "postgresql://log@/twinhost?host=/run/postgresql",
        "host=/run/postgresql dbname=twinhost",
        "hostaddr=192.0.2.1 host=db sslmode=verify-full",
    ],
)
def test_a_verified_server_or_a_unix_socket_is_taken(dsn: str) -> None:
    parts = conninfo_to_dict(verified(dsn))
    assert parts["target_session_attrs"] == "read-write"
    for name, value in conninfo_to_dict(dsn).items():
        assert parts[name] == value


def test_options_of_the_dsn_come_before_those_that_must_be() -> None:
    options = str(conninfo_to_dict(verified("host=/run dbname=t options='-c synchronous_commit=off'"))["options"])
    assert options.startswith("-c synchronous_commit=off -c synchronous_commit=on -c client_min_messages=warning")


@pytest.mark.parametrize(
    ("dsn", "sentence"),
    [
        ("postgresql://db/twinhost", "add sslmode=verify-full"),
        ("postgresql://db/twinhost?sslmode=require", "add sslmode=verify-full"),
        ("postgresql://db/twinhost?sslmode=verify-ca", "add sslmode=verify-full"),
        ("host=/run/postgresql,db dbname=twinhost", "add sslmode=verify-full"),
        ("host=/run/postgresql hostaddr=192.0.2.1", "add sslmode=verify-full"),
        ("dbname=twinhost", "it names no host"),
        ("postgresql:///twinhost", "it names no host"),
        ("postgresql://log:hunter2@db/twinhost?sslmode=verify-full", "it has a password"),
        ("mysql://log:hunter2@db/twinhost", "it is no DSN of PostgreSQL"),
        ("nonsense", "it is no DSN of PostgreSQL"),
    ],
)
def test_a_server_that_is_not_verified_is_refused(dsn: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        verified(dsn)
    assert "hunter2" not in str(refused.value)


def test_an_agent_without_a_log_loads_nothing_of_it() -> None:
    agents = ("system_digital_twin", "unified_memory_reasoning")
    program = (
        f"import sys; {'; '.join(f'import twinhost.{agent}.__main__' for agent in agents)}; "
        "print([name for name in sys.modules if name.startswith(('psycopg', 'twinhost.store.replication'))])"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded == "[]\n"
