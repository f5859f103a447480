"""What the errors of PostgreSQL mean, from its whole list: https://www.postgresql.org/docs/current/errcodes-appendix.html.

Five characters win over the class (two).
"""

from __future__ import annotations

import re

import psycopg

from waxwing.databases.refusals import ADDRESS_HINT, DAMAGED_HINT, DEADLOCK, DISK_HINT, LOCKED, UNKNOWN, Failure, Meaning

_TRANSIENT, _ROW, _TABLE, _BUG = Meaning("transient"), Meaning("row"), Meaning("table"), Meaning("statement")
_LOGIN = Meaning("config", "Check user and password in DATABASE_URL, and the server's pg_hba.conf.")
_POOLER = Meaning(
    "config",
    "Prepared statements get lost between us and the server: a pooler in the way gives each transaction another session. Connect "
    "past it, or let it keep sessions.",
)
_DAMAGED = Meaning("table", f"{DAMAGED_HINT} (REINDEX mends an index.)")
_FILES = Meaning("later", "The server can't read or write its files: see its log, and its disks.")
_TRIGGER = Meaning("table", "A function that a trigger, a constraint or a default of the table calls is wrong: mend it.")

CODES: dict[str, Meaning] = {
    "00": _BUG,  # success, warnings, no data: no errors, unless a trigger raises them (see `meaning`)
    "01": _BUG,
    "02": _BUG,
    "03": _BUG,  # SQL statement not yet complete
    "08": _TRANSIENT,  # connection exception
    "09": _ROW,  # triggered action exception
    "0A": _TABLE,  # feature not supported: a view, row-level security with COPY
    "0B": _BUG,  # invalid transaction initiation
    "0F": _BUG,  # locators
    "0L": Meaning("permission"),  # invalid grantor
    "0P": _LOGIN,  # invalid role
    "0Z": _TRIGGER,  # diagnostics exception: GET STACKED DIAGNOSTICS outside of a handler
    "10": _ROW,  # XQuery
    "20": _ROW,  # no WHEN of a CASE takes the value: by a trigger
    # Two rows of one statement meet the same stored row, or a trigger's subquery gives two: in smaller parts it shows which.
    "21": _ROW,
    "22": _ROW,  # data exception: too long, out of range, not a number
    "2200H": Meaning("table", "The sequence is at its end: give it a larger type or MAXVALUE (ALTER SEQUENCE), or let it cycle."),
    "22P04": _BUG,  # bad COPY format
    "23": _ROW,  # integrity constraint violation
    "24": _BUG,  # invalid cursor state
    "25": _BUG,  # invalid transaction state
    "25006": Meaning("transient", "The server only reads: it is a standby, until the failover is done."),
    "25P03": _TRANSIENT,  # idle_in_transaction_session_timeout
    "25P04": Meaning("transient", too_large=True),  # transaction_timeout
    "26": _POOLER,  # no such prepared statement
    "27": _ROW,  # triggered data change violation
    "28": _LOGIN,  # invalid authorization: password, pg_hba.conf
    "2B": _TABLE,  # others depend on it
    "2D": _TRIGGER,  # a COMMIT or ROLLBACK within
    "2F": _TRIGGER,  # SQL routine exception
    "34": _BUG,  # no such cursor
    "38": _TRIGGER,  # external routine exception
    "38000": _ROW,  # raised by a trigger in another language
    "39": _TRIGGER,  # external routine invocation exception
    "39004": _ROW,  # null value not allowed
    "3B": _TRANSIENT,  # no such savepoint: the transaction is not the one that set it
    "3D": Meaning("config", "Create the database, or correct its name in DATABASE_URL."),
    "3F": Meaning("config", "Create the schema, or correct it in DATABASE_TABLE."),
    "40": _TRANSIENT,  # transaction rollback: 40001 serialization, 40P01 deadlock, 40003 outcome unknown
    "40002": _ROW,  # an integrity constraint, found at the end of the transaction
    "42": _TABLE,  # no such table or column, another type
    "42000": _BUG,
    "42501": Meaning(
        "permission",
        "Grant it: CONNECT and TEMPORARY on the database, USAGE and CREATE on the schema, SELECT, INSERT, UPDATE and DELETE on "
        "the tables, USAGE on the sequences of numbered columns.",
    ),
    "42601": _BUG,  # syntax
    "42602": _BUG,  # invalid name
    "42702": _BUG,  # ambiguous column
    "42712": _BUG,  # duplicate alias
    "42723": _BUG,  # duplicate function
    "42725": _BUG,  # ambiguous function
    "42803": _BUG,  # grouping
    "42P01": Meaning("table", "It was there at the start: somebody dropped or renamed it."),
    "42P02": _BUG,  # undefined parameter
    "42P03": _BUG,  # duplicate cursor
    "42P04": _BUG,  # duplicate database
    "42P05": _POOLER,  # duplicate prepared statement
    "42P08": _BUG,  # ambiguous parameter
    "42P09": _BUG,  # ambiguous alias
    "42P10": Meaning("table", "The unique constraint of the keys is gone, or can't be used: make it anew."),
    "42P11": _BUG,  # invalid cursor definition
    "42P12": _BUG,  # invalid database definition
    "42P13": _BUG,  # invalid function definition
    "42P14": _BUG,  # invalid prepared statement definition
    "42P15": _BUG,  # invalid schema definition
    "42P18": _BUG,  # indeterminate datatype
    "42P19": _BUG,  # invalid recursion
    "42P20": _BUG,  # windowing
    # Another process made it at the same moment; next time it is there.
    "42P06": _TRANSIENT,
    "42P07": _TRANSIENT,
    "42710": _TRANSIENT,
    "44": _ROW,  # WITH CHECK OPTION
    "45": _ROW,  # a user's own errors, by the SQL standard
    "53": Meaning("later", "The server is out of resources: see its log."),
    "53100": Meaning("later", DISK_HINT),
    "53200": _TRANSIENT,  # out of memory: may pass
    "53300": _TRANSIENT,  # too many connections
    "53400": Meaning("config", "A limit of the server's configuration is too low for this, such as temp_file_limit: raise it."),
    "54": _TABLE,  # program limit exceeded: too many columns
    "54000": _ROW,  # one value too large for an index
    "54001": Meaning("table", "Too deep for the server's stack: often a trigger that calls itself."),
    "54023": _BUG,  # too many arguments
    "55000": Meaning(
        "table",
        "The table is not in a state that allows this. One that is published for replication needs a replica identity: "
        "ALTER TABLE ... REPLICA IDENTITY FULL, or a primary key.",
    ),
    "55006": _TRANSIENT,  # object in use
    "55P02": Meaning("config", "A setting can't be changed while the server runs: leave it out of the options in DATABASE_URL."),
    "40001": Meaning("transient", DEADLOCK),  # serialization failure
    "40P01": Meaning("transient", DEADLOCK),
    "55P03": Meaning("transient", LOCKED),  # lock_timeout
    "55P04": _TRANSIENT,  # a new value of an enum, not committed yet
    "57": _TRANSIENT,  # 57P01 shut down, 57P02 crash of another session, 57P03 starting up, 57P05 idle_session_timeout
    "57014": Meaning("transient", too_large=True),  # statement_timeout, or cancelled by an administrator
    "57P04": Meaning("config", "Somebody dropped the database: create it, or correct its name in DATABASE_URL."),
    "58": _FILES,  # 58030 I/O, 58P01 a file is missing
    "72": _TRANSIENT,  # snapshot too old (PostgreSQL 16 and before)
    "F0": Meaning("config", "The server's configuration file is wrong: see its log."),
    "HV": Meaning("table", "A foreign table stands behind it, and its server does not take this."),
    "P0": _ROW,  # RAISE EXCEPTION, by a trigger of the table
    "XX": Meaning("later", "An error within the server: its log says more."),
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
}  # fmt: skip

# libpq hands out no SQLSTATE for a refused connection, only the server's message. It is in English unless the
# server says otherwise (lc_messages); in another language it counts as transient, and so ends in exit 75.
_REFUSED = (
    (re.compile(r"password authentication failed|no password supplied|authentication failed"), "28P01"),
    (re.compile(r"no pg_hba\.conf entry|FATAL: +role .* (does not exist|is not permitted to log in)"), "28000"),
    (re.compile(r"FATAL: +database .* does not exist|no such database"), "3D000"),
    (re.compile(r"permission denied for database"), "42501"),
    (re.compile(r"too many clients|too many connections|connection slots are reserved"), "53300"),
    (re.compile(r"starting up|shutting down|in recovery mode|not (yet )?accepting connections"), "57P03"),
    (re.compile(r"server does not support SSL|certificate verify failed|root certificate file .* does not exist"), "28000"),
    (re.compile(r"No space left on device"), "53100"),
)
# What libpq, the server, or a pooler (PgBouncer) says of an option of the URL.
_OPTIONS = re.compile(
    r"invalid \S+ value|invalid (integer|port|value)|unsupported startup parameter|unrecognized configuration parameter"
    r"|invalid value for parameter|FATAL: +parameter \"|transaction blocks not allowed in statement pooling mode"
)
_UNKNOWN_HOST = re.compile(r"failed to resolve host|could not translate host name")
# The server has a code for a full disk, and none for a quota.
_NO_ROOM = re.compile(r"Disk quota exceeded|No space left on device")


def meaning(code: str) -> Meaning:
    """What a SQLSTATE means."""
    return CODES.get(code) or CODES.get(code[:2]) or UNKNOWN


def failure_of(cause: psycopg.Error) -> Failure:
    """What an error of psycopg means."""
    if not (code := cause.sqlstate):
        return _without_code(cause)
    told = cause.diag
    reason = told.message_primary or str(cause)
    found = meaning(code)
    if found.kind in ("unknown", "statement") and told.source_function == "exec_stmt_raise":
        found = _ROW  # a trigger raises what it likes
    if code == "XX000" and _NO_ROOM.search(reason):
        found = meaning("53100")
    failure = found.failure(code, reason)
    if failure.kind == "row":
        # The detail of a row's error names the key that exists; of others, nothing of use.
        detail = f"{failure.reason}: {told.message_detail}" if told.message_detail else failure.reason
        column = told.column_name or "" if code == "23502" else ""
        return failure._replace(
            reason=detail, column=column, constraint=told.constraint_name or "" if code in ("23503", "23505", "23514") else ""
        )
    return failure


def _without_code(error: psycopg.Error) -> Failure:
    """An error that no server gave a code to: of connecting, of a lost connection, of the driver itself."""
    # libpq tries each address, with TLS and without, and says of each the same.
    lines = (line.strip().removeprefix("connection failed: ") for line in str(error).splitlines())
    reason = " ".join(" ".join(dict.fromkeys(line for line in lines if line)).split())
    if isinstance(error, psycopg.ProgrammingError) or _OPTIONS.search(reason):
        return Failure("config", type(error).__name__, reason, "Check the options in DATABASE_URL.")
    if isinstance(error, psycopg.OperationalError):
        for pattern, code in _REFUSED:
            if pattern.search(reason):
                return meaning(code).failure(code, reason)
        hint = ADDRESS_HINT if _UNKNOWN_HOST.search(reason) else ""
        return Failure("transient", "connection", reason, hint)
    if isinstance(error, psycopg.InterfaceError):  # "the connection is closed"
        return Failure("transient", "connection", reason)
    if isinstance(error, psycopg.DataError):
        return Failure("row", type(error).__name__, reason)
    return UNKNOWN.failure(type(error).__name__, reason)
