-- The registry: terminals, their TMKs, deliveries, the audit log. Numbers of states, types and
-- stores are those of db/registry.h and of TMKInfo in tmk-download.asn1. Times are seconds since
-- 1970; 0 is never. ASCII only: the file is built into the program byte by byte.

CREATE TABLE terminal (
  sn          TEXT    NOT NULL PRIMARY KEY
                      CHECK (length(sn) BETWEEN 1 AND 64 AND sn NOT GLOB '*[^!-~]*'),
  spki        BLOB    NOT NULL CHECK (length(spki) BETWEEN 1 AND 640),
  spki_sha256 BLOB    NOT NULL UNIQUE CHECK (length(spki_sha256) = 32), -- a TKP_Pu has one SN only
  state       INTEGER NOT NULL CHECK (state IN (0, 1)),
  batch       TEXT    NOT NULL CHECK (length(CAST(batch AS BLOB)) <= 64),
  row_version INTEGER NOT NULL CHECK (row_version >= 1),
  created     INTEGER NOT NULL CHECK (created >= 0),
  changed     INTEGER NOT NULL CHECK (changed >= 0),
  seal        BLOB    NOT NULL CHECK (length(seal) = 32)
) STRICT;

CREATE TABLE tmk (
  sn      TEXT    NOT NULL REFERENCES terminal (sn),
  version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
  type    INTEGER NOT NULL CHECK (type BETWEEN 0 AND 4),
  kcv     BLOB    NOT NULL CHECK (length(kcv) = CASE WHEN type < 2 THEN 3 ELSE 5 END),
  store   INTEGER NOT NULL CHECK (store BETWEEN 1 AND 3),
  wrapped BLOB    NOT NULL CHECK (length(wrapped) <= 48 AND (store = 1) = (length(wrapped) = 0)),
  PRIMARY KEY (sn, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE delivery (
  sn              TEXT    NOT NULL,
  version         INTEGER NOT NULL,
  delivered_at    INTEGER NOT NULL CHECK (delivered_at >= 1),
  delivered_count INTEGER NOT NULL CHECK (delivered_count >= 1),
  confirmed_at    INTEGER NOT NULL CHECK (confirmed_at >= 0), -- 0 again after a reopen
  PRIMARY KEY (sn, version),
  FOREIGN KEY (sn, version) REFERENCES tmk (sn, version)
) STRICT, WITHOUT ROWID;

-- db/audit.h says what hash and seal cover.
CREATE TABLE audit (
  seq    INTEGER NOT NULL PRIMARY KEY CHECK (seq >= 1),
  at     INTEGER NOT NULL CHECK (at >= 0),
  event  TEXT    NOT NULL CHECK (length(CAST(event AS BLOB)) BETWEEN 1 AND 32),
  sn     TEXT    NOT NULL CHECK (length(CAST(sn AS BLOB)) <= 64),
  actor  TEXT    NOT NULL CHECK (length(CAST(actor AS BLOB)) <= 96),
  detail TEXT    NOT NULL CHECK (length(CAST(detail AS BLOB)) <= 256),
  hash   BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE audit_seal (
  seq  INTEGER NOT NULL PRIMARY KEY REFERENCES audit (seq),
  seal BLOB    NOT NULL CHECK (length(seal) = 32)
) STRICT;

-- Against a mistake with the sqlite3 shell; against intent there are the seals.
CREATE TRIGGER audit_has_no_gap BEFORE INSERT ON audit
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit)
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;

CREATE TRIGGER audit_seal_seals_the_last BEFORE INSERT ON audit_seal
WHEN NEW.seq IS NOT (SELECT max(seq) FROM audit)
  OR EXISTS (SELECT 1 FROM audit_seal WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;

CREATE TRIGGER audit_seal_is_not_changed BEFORE UPDATE ON audit_seal
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;

CREATE TRIGGER audit_seal_is_not_deleted BEFORE DELETE ON audit_seal
BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
