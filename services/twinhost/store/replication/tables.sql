-- The log of the agents, in its one declaration: an agent makes what is missing, as far as the role of its DSN may.
-- PostgreSQL's single-user mode reads it too, where an empty line ends a statement.

CREATE TABLE IF NOT EXISTS epochs (
    agent text PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    beat bigint NOT NULL DEFAULT 0,
    holder text NOT NULL DEFAULT '',
    durable bigint NOT NULL DEFAULT 0,
    log text NOT NULL DEFAULT '',
    turn text NOT NULL DEFAULT ''
);

ALTER TABLE epochs ADD COLUMN IF NOT EXISTS turn text NOT NULL DEFAULT '';

CREATE TABLE IF NOT EXISTS commits (
    agent text,
    seq bigint,
    epoch bigint NOT NULL,
    statements bytea NOT NULL,
    PRIMARY KEY (agent, seq)
);

-- While a standby runs, `fault` has what it says of itself, in lines that begin with a word; else why it has ended.

CREATE TABLE IF NOT EXISTS standbys (
    agent text,
    name text,
    applied bigint NOT NULL DEFAULT 0,
    beat bigint NOT NULL DEFAULT 0,
    fault text NOT NULL DEFAULT '',
    PRIMARY KEY (agent, name)
);

-- An agent's files at one position. Part 0 comes last, and says that all are there.

CREATE TABLE IF NOT EXISTS snapshots (
    agent text,
    seq bigint,
    part integer,
    content bytea NOT NULL,
    PRIMARY KEY (agent, seq, part)
);

-- Only this deletes: what is older than the newest snapshot but one, so that a standby that is a little late goes on with
-- the log.

CREATE OR REPLACE FUNCTION trim_log(of_agent text) RETURNS void LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC
    DELETE FROM commits WHERE agent = of_agent AND seq <= (
        SELECT seq FROM snapshots WHERE agent = of_agent AND part = 0 ORDER BY seq DESC LIMIT 1 OFFSET 1);
    DELETE FROM snapshots WHERE agent = of_agent AND seq < (
        SELECT max(seq) FROM snapshots WHERE agent = of_agent AND part = 0);
END;

REVOKE EXECUTE ON FUNCTION trim_log FROM PUBLIC;

-- The one role of the agents, in a database of their own: it appends, and moves an epoch; it changes no
-- transaction, and deletes none that a snapshot doesn't have.

DO $$ BEGIN IF to_regrole('twinhost') IS NULL THEN CREATE ROLE twinhost LOGIN; END IF; END $$;

REVOKE ALL ON DATABASE twinhost FROM PUBLIC;

GRANT CONNECT ON DATABASE twinhost TO twinhost;

GRANT SELECT, INSERT, UPDATE ON epochs TO twinhost;

GRANT SELECT, INSERT, UPDATE ON standbys TO twinhost;

GRANT SELECT, INSERT ON commits, snapshots TO twinhost;

GRANT EXECUTE ON FUNCTION trim_log TO twinhost;
