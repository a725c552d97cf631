-- The log of the agents, in its one declaration: an agent makes what is missing, as far as the role of its DSN may.
-- PostgreSQL's single-user mode reads it too, where an empty line ends a statement.

CREATE TABLE IF NOT EXISTS epochs (
    agent text PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    beat bigint NOT NULL DEFAULT 0,
    holder text NOT NULL DEFAULT '',
    durable bigint NOT NULL DEFAULT 0,
    log text NOT NULL DEFAULT ''
);

CREATE TABLE IF NOT EXISTS commits (
    agent text,
    seq bigint,
    epoch bigint NOT NULL,
    statements bytea NOT NULL,
    PRIMARY KEY (agent, seq)
);

CREATE TABLE IF NOT EXISTS standbys (
    agent text,
    name text,
    applied bigint NOT NULL DEFAULT 0,
    beat bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (agent, name)
);

-- The one role of the agents, in a database of their own: it appends, and moves an epoch; it changes and deletes no
-- transaction.

DO $$ BEGIN IF to_regrole('twinhost') IS NULL THEN CREATE ROLE twinhost LOGIN; END IF; END $$;

REVOKE ALL ON DATABASE twinhost FROM PUBLIC;

GRANT CONNECT ON DATABASE twinhost TO twinhost;

GRANT SELECT, INSERT, UPDATE ON epochs TO twinhost;

GRANT SELECT, INSERT ON commits TO twinhost;

GRANT SELECT, INSERT, UPDATE ON standbys TO twinhost;
