"""What the errors of MySQL and MariaDB mean.

Numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html and
https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference; those of 2000 and above that the client
makes: https://dev.mysql.com/doc/mysql-errors/8.4/en/client-error-reference.html. What is not listed stops the flow.
"""

from __future__ import annotations

from typing import Any

from waxwing.databases.base import LOCKED, Failure

_CODES = {
    "transient": {
        1020,  # record has changed since last read (MariaDB's snapshot isolation)
        1037,  # out of memory
        1040,  # too many connections
        1041,  # out of memory
        1047,  # a Galera node that is not ready
        1053,  # server shutdown in progress
        1077,  # normal shutdown
        1079,  # shutdown complete
        1080,  # forcing close of a thread
        1129,  # host is blocked because of many connection errors
        1152,  # aborted connection
        1158,  # network: reading
        1159,  # network: reading, time-out
        1160,  # network: writing
        1161,  # network: writing, time-out
        1180,  # error during COMMIT
        1203,  # this user has too many connections
        1205,  # lock wait time-out
        1206,  # the lock table is full
        1213,  # deadlock
        1226,  # a resource limit of this user
        1290,  # --read-only: a replica, until the failover is done
        1317,  # the statement was interrupted
        1412,  # the table's definition has changed
        1615,  # prepared statement needs to be prepared again
        1637,  # too many transactions at once
        1792,  # a read-only transaction
        1836,  # read-only mode
        1927,  # MariaDB: the connection was killed
        1969,  # MariaDB: max_statement_time
        2002,  # can't connect (socket)
        2003,  # can't connect (TCP)
        2005,  # unknown host
        2006,  # server has gone away
        2013,  # connection lost
        2055,  # connection lost
        3024,  # MySQL: max_execution_time
        3101,  # group replication rolled the transaction back
        3572,  # NOWAIT
        4031,  # MySQL: disconnected because of inactivity
    },
    "row": {
        1048,  # null in a NOT NULL column
        1062,  # duplicate key
        1153,  # a row larger than max_allowed_packet
        1169,  # unique constraint
        1216,  # foreign key (parent is missing)
        1217,  # foreign key (row is referenced)
        1264,  # out of range
        1265,  # data truncated
        1292,  # wrong value
        1366,  # wrong value (also: text that the column's character set can't hold)
        1367,  # illegal value while parsing
        1406,  # too long
        1411,  # wrong value for a function
        1416,  # wrong geometry
        1441,  # date overflow
        1451,  # foreign key (row is referenced)
        1452,  # foreign key (parent is missing)
        1526,  # no partition for the value
        1586,  # duplicate key
        1644,  # SIGNAL, by a trigger of the table
        1690,  # out of range, in an expression
        1713,  # undo log record too large
        1748,  # row in the wrong partition
        3140,  # invalid JSON
        3819,  # MySQL: CHECK
        4025,  # MariaDB: CHECK
    },
    "config": {
        1044,  # no access to the database
        1045,  # login refused
        1046,  # no database selected
        1049,  # unknown database
        1054,  # unknown column
        1064,  # syntax
        1067,  # invalid default
        1071,  # key too long
        1118,  # row too large, in CREATE TABLE
        1130,  # host not allowed
        1142,  # command denied
        1143,  # command denied on a column
        1146,  # no such table
        1170,  # text without a length in a key
        1193,  # unknown system variable: an older server
        1227,  # a privilege is missing
        1251,  # the server asks for another authentication
        1273,  # unknown collation: an older server
        1364,  # a column without default that is not written
        1370,  # routine denied
        1425,  # too many decimals
        1426,  # too many digits
        1665,  # binlog_format=STATEMENT
        1698,  # login refused
        1820,  # the password must be changed
        1862,  # the password has expired
        2026,  # TLS
        2049,  # old authentication
        2059,  # authentication plugin
    },
}  # and 1021 disk full, 1030 storage engine, 1034, 1114 table full, 1194, 1195, ...: target

_KINDS: dict[int, Any] = {code: kind for kind, codes in _CODES.items() for code in codes}

_CHECK_LOGIN = "Check user and password in DATABASE_URL, and from which hosts the user may connect."
_HINTS = {
    1021: "Free disk space on the database server, then start again.",
    1030: "Often the disk of the database server is full.",
    1044: "Grant it, or correct the database's name in DATABASE_URL.",
    1045: _CHECK_LOGIN,
    1046: "Give the database in DATABASE_URL: mysql://user:password@host:3306/DATABASE.",
    1049: "Create the database, or correct its name in DATABASE_URL.",
    1114: "The table or the disk of the database server is full.",
    1130: _CHECK_LOGIN,
    1142: "Grant it: SELECT, INSERT, UPDATE, DELETE, and CREATE, INDEX where tables are missing.",
    1146: "It was there at the start: somebody dropped or renamed it.",
    1170: "Give the String column a length.",
    1205: LOCKED,
    1665: "Set binlog_format to ROW or MIXED: READ COMMITTED, which exactness rests on, needs it.",
    1698: _CHECK_LOGIN,
    2005: "Check the host in DATABASE_URL.",
    2026: "Check the TLS options in DATABASE_URL (ssl_ca, ssl_cert, ssl_key).",
}
_TOO_LARGE = {1206, 1317, 1969, 3024}  # a smaller transaction may do


def meaning(code: int, text: str) -> Failure:
    """What an error number means."""
    kind: Any = _KINDS.get(code, "target")
    if code == 1305 and "SAVEPOINT" in text:  # the transaction is not the one that set it: begin again
        kind = "transient"
    elif code == 1305:  # no such function or procedure
        kind = "config"
    elif code == 2003 and "Name or service not known" in text:
        return Failure("transient", str(code), text, _HINTS[2005])
    return Failure(kind, str(code), " ".join(text.split()), _HINTS.get(code, ""), code in _TOO_LARGE)
