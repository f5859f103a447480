"""What the errors of MySQL and MariaDB mean, from their whole lists.

Numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html and
https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference; those of 2000 and above that the client
makes: https://dev.mysql.com/doc/mysql-errors/8.4/en/client-error-reference.html; those below 1000 are of the server's files
(to 50) and of storage engines (from 120). What is not listed can't come of what we ask (replication, events, plugins, others'
DDL), or is new: `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from waxwing.databases.refusals import ADDRESS_HINT, DAMAGED_HINT, DEADLOCK, DISK_HINT, LOCKED, UNKNOWN, Failure, Kind, Meaning

# Numbers, `a-b` for all from a to b, then what they are. Later lines win.
_TEXT: dict[Kind, str] = {
    "transient": """
        123 146 148-149 159         engine: changed meanwhile, locks, deadlock
        1015 1205 1213 1223 1689    locks, deadlock, a global read lock
        1020 1412 1684 1806         changed meanwhile: a row, the table's definition
        1037 1041 2008 3015 3170    out of memory
        1040 1135 1203 1226 1587    too many connections, threads, files, queries of this user
        1043 1129 1152-1161 1184    network; the host is blocked because of many connection errors
        1047 1053 1077-1080 3032    a node that is not ready, shutdown, offline
        1050 1061                   it exists: another process made it at the same moment
        1180-1181 1964              error during COMMIT or ROLLBACK
        1290 1792 1836              read-only: a replica, until the failover is done
        1297                        a temporary error of the storage engine
        1399 1402 1613-1614         XA: rolled back
        1615 1637                   to be prepared again; too many transactions at once
        1835 2012 2027              malformed packet
        1927 3168-3169 4031         the connection was killed, or inactive
        2001-2004 2006 2013 2055 2070    can't connect, connection lost
        3058 3100-3101 3572         named locks, group replication, NOWAIT
        4060 4145                   rolled back, a backup holds it
        """,
    "later": """
        1-50                        the server's own files
        120-122 124-145 147 150-158 160-199    errors of a storage engine that have no number of the server's
        1004-1005 1009-1011 1016 1018 1023-1026    can't make, open, read, write a file
        1030 1155 1182-1183 1296 1815    errors of a storage engine, internal ones
        1038 3044                   memory for sorting
        1374 1376-1377 1388 1534 1595    the binary log
        1810-1811 1878 3019 4067-4068 4087    I/O, temporary files, undo log
        1874                        InnoDB is in read-only mode: a disk or a recovery
        """,
    "row": """
        121 141 151-152 163         engine: duplicate key, foreign key
        139 158 160                 engine: row too large, null, no partition for it
        1048 1138 1263              null
        1022 1062 1169 1586 1859 1869 3026    duplicate key
        1153 1162 1301 2020         larger than max_allowed_packet
        1216-1217 1451-1452 1761-1762 1834 3008    foreign key
        1172 1242 1329 1339         of a trigger: too many rows, none, no WHEN that takes it
        1256-1259 1916-1922         compressed and dynamic columns
        1264 1265 1292 1299 1406 1411 1441 1525 1552 1690 1742    out of range, too long, wrong
        1300 1366 1367 1977         text that is none, or that the column's character set can't hold
        1139 1365 3020              regular expression, division by zero, logarithm: in a CHECK or a generated column
        1369 3819 4025 4027-4028    CHECK
        1416 3033-3043 3045-3055 3616-3617 3643    geometry
        1526 1563 1737 1748 1863    no partition for the value, or another one
        1642-1644 1647-1648         SIGNAL, by a trigger of the table
        1713                        undo log record too large
        3140-3158 3903-3907 4035-4051 4076 4178-4179    JSON
        """,
    "table": """
        166-167                     engine: no more numbers
        1029 1033 1036 1196 1622    of another kind, read-only, without transactions
        1054 1059-1060 1063 1066-1067 1072 1166 1906    columns that are gone, wrong, generated
        1031 1068-1071 1073-1075 1089 1103 1113 1117-1118 1121 1148 1163-1164 1167-1168 1170-1171 1173 1176 1178    DDL
        1215 1239 1391 1425-1427 1439 1470 1503 1505-1506 1659 1667 1677 1709 1901 1905 1907 1910 1978    DDL
        3105 3750 3780 4047 4108 4140 4161    DDL
        1119 1136 1360-1363 1415 1422-1424 1436 1442 1449 1456-1457 1582-1584 1630 1706 1710-1711    a trigger that is wrong
        1146 1176 1286 1701 1707 1808-1809 1812 1814 1824-1825 1932    gone, or to be made anew
        1267 1270-1271 4078-4079    collations or types that do not go together
        1288 1348 1356 1394 1443 1471    a view
        1364                        a column without default that is not written
        1726 4132 4137              system-versioned
        3098                        group replication: no primary key
        """,
    "permission": """
        1044 1142-1143 1227 1345 1370 1419    denied
        """,
    "config": """
        1045-1046 1049 1102 1130-1132 1698 1873    login, database
        1112 1115 1193 1229 1231-1232 1235 1238 1251 1273 1275 1289 1298 1524 1621    an older or other server
        1175 1224 1766              settings of the server
        1598 1661-1666 1728 1844 4056    binary log
        1759 2026 3159 4166-4167    TLS
        1820 1862 3118 3955 4150-4151    password has expired, account is locked
        2007 2019 2047 2049 2054 2059 2061 2066    protocol, authentication
        """,
    "statement": """
        1052 1055-1058 1064-1065 1093 1096 1101 1109-1111 1140 1149 1179 1207 1210 1221-1222 1234 1240-1241    syntax
        1243 1247-1248 1250 1390 1568 2014 2029-2036 2053    syntax, prepared statements
        """,
}

_LOGIN = "Check user and password in DATABASE_URL, and from which hosts the user may connect."
_GRANT = (
    "Grant it: SELECT, INSERT, UPDATE, DELETE, and CREATE, INDEX where tables are missing; one of them for the whole table, "
    "since rights on columns alone do not show what it is."
)
_NUMBERS = "The table's numbers (AUTO_INCREMENT) are at the end of the column's range: give the column a larger type."
_ROOM = Meaning("later", "The table or the disk of the database server is full: make room, then start again.")
_DAMAGED = Meaning("table", f"{DAMAGED_HINT} (CHECK TABLE, and the server's log.)")
_SMALLER = Meaning("transient", too_large=True)  # too many locks, too long, too much for the binary log's cache
_HINTS: dict[Kind, str] = {
    "later": "Often the disk of the database server is full: make room, or look at the server's log; then start again.",
    "permission": _GRANT,
}


def _numbers(text: str) -> Iterator[int]:
    for word in re.findall(r"^ *((?:[\d-]+ +)+)", text, re.MULTILINE):
        for part in word.split():
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)


MEANINGS: dict[int, Meaning] = {
    code: Meaning(kind, _HINTS.get(kind, ""))
    for kind in ("later", "transient", "row", "table", "permission", "config", "statement")
    for code in _numbers(_TEXT[kind])
}
MEANINGS |= dict.fromkeys((3, 20, 28, 1021, 1026), Meaning("later", DISK_HINT))
MEANINGS |= dict.fromkeys((135, 136, 188, 1114, 4139), _ROOM)
MEANINGS |= dict.fromkeys((126, 127, 144, 145, 1034, 1035, 1194, 1195, 1459, 1602, 1712, 1817, 1866, 1877, 3000), _DAMAGED)
MEANINGS |= dict.fromkeys((147, 1197, 1206, 1317, 1705, 1931, 1969, 3024), _SMALLER)
MEANINGS |= dict.fromkeys((166, 167, 1467), Meaning("table", _NUMBERS))
MEANINGS |= dict.fromkeys((1045, 1130, 1698), Meaning("config", _LOGIN))
MEANINGS |= {
    1044: Meaning("permission", "Grant it, or correct the database's name in DATABASE_URL."),
    1046: Meaning("config", "Give the database in DATABASE_URL: mysql://user:password@host:3306/DATABASE."),
    1049: Meaning("config", "Create the database, or correct its name in DATABASE_URL."),
    1146: Meaning("table", "It was there at the start: somebody dropped or renamed it."),
    1170: Meaning("table", "Give the String column a length."),
    1205: Meaning("transient", LOCKED),
    1213: Meaning("transient", DEADLOCK),
    1364: Meaning("table", "Give the column a default, or let the rows bring it."),
    1665: Meaning("config", "Set binlog_format to ROW or MIXED: READ COMMITTED, which exactness rests on, needs it."),
    2005: Meaning("transient", ADDRESS_HINT),
    2026: Meaning("config", "Check the TLS options in DATABASE_URL (ssl_ca, ssl_cert, ssl_key)."),
    4084: Meaning("table", "The sequence is at its end: give it a larger MAXVALUE, or let it cycle."),
}

_NULL = re.compile(r"Column '([^']+)' cannot be null")
_CHECK_OR_KEY = re.compile(r"CONSTRAINT `([^`]+)` (?:failed for|FOREIGN KEY)|Check constraint '([^']+)' is violated")
_UNIQUE = re.compile(r" for key '(?:[^'.]+\.)?([^']+)'$")  # behind the value


def meaning(code: int, text: str) -> Failure:
    """What an error number means."""
    found = MEANINGS.get(code, UNKNOWN)
    if code == 1305:  # no such function or procedure; or the transaction is not the one that set the savepoint: begin again
        found = Meaning("transient" if "SAVEPOINT" in text else "table")
    elif code == 2003 and "Name or service not known" in text:
        found = MEANINGS[2005]
    failure = found.failure(code, text)
    null = _NULL.search(text) if code == 1048 else None
    refused = _UNIQUE.search(text) if code == 1062 else _CHECK_OR_KEY.search(text) if code in (1452, 3819, 4025) else None
    return failure._replace(column=null[1] if null else "", constraint=refused[refused.lastindex or 0] if refused else "")
