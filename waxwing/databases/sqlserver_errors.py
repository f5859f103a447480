"""What errors of SQL Server mean: the vendor's numbers, each with its source.

Sources:
    engine   https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors
    client   https://learn.microsoft.com/dotnet/api/microsoft.data.sqlclient.sqlconfigurableretryfactory.baselinetransienterrors
    azure    https://learn.microsoft.com/azure/azure-sql/database/troubleshoot-common-errors-issues
    login    https://learn.microsoft.com/sql/relational-databases/errors-events/mssqlserver-18456-database-engine-error
    ours     thrown by our own statements (sqlserver.py, sqlserver_dialect.py)
    odbc     https://learn.microsoft.com/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from waxwing.databases.base import LOCKED, Failure

Kind = Literal["transient", "row", "config", "target"]


class Entry(NamedTuple):
    """One number: what it means to us, where that is documented, what it says."""

    kind: Kind
    source: str
    says: str
    hint: str = ""
    too_large: bool = False


_LOGIN = "Check user, password and database in DATABASE_URL, and the server's logins."
_GRANT = (
    "Grant it: CONNECT; CREATE TABLE in the database and ALTER on the schema where tables are made; SELECT, INSERT, UPDATE and "
    "DELETE on the tables."
)
_GONE = "It was there at the start: somebody dropped or renamed it."
_DISK = "Free disk space for the database, then start again."

# The rule: what is not listed stops the flow.
NUMBERS: dict[int, Entry] = {
    # -- try again: locks, versions, resources ----------------------------------------------------
    1204: Entry("transient", "client", "no lock resources now"),
    1205: Entry("transient", "client", "chosen as a deadlock's victim"),
    1221: Entry("transient", "engine", "the lock manager lost its way"),
    1222: Entry("transient", "client", "lock time-out", LOCKED),
    51901: Entry("transient", "ours", "the lock of this session is held by another one"),
    51902: Entry("transient", "ours", "another process makes the tables and does not finish"),
    51903: Entry("transient", "ours", "another writer inserted a key of ours meanwhile"),
    3960: Entry("transient", "engine", "snapshot isolation: somebody else updated the row"),
    3961: Entry("transient", "engine", "snapshot isolation: the table was altered meanwhile"),
    3966: Entry("transient", "engine", "snapshot isolation: ended for lack of version store"),
    601: Entry("transient", "engine", "data moved under a scan"),
    701: Entry("transient", "engine", "out of memory"),
    802: Entry("transient", "engine", "no buffer memory"),
    845: Entry("transient", "engine", "time-out at a page in memory"),
    8628: Entry("transient", "engine", "time-out while waiting to optimise"),
    8645: Entry("transient", "engine", "time-out while waiting for memory"),
    8651: Entry("transient", "engine", "too little memory for the query now"),
    41301: Entry("transient", "engine", "memory-optimised: a transaction depended on failed"),
    41302: Entry("transient", "engine", "memory-optimised: the row was updated meanwhile"),
    41305: Entry("transient", "engine", "memory-optimised: repeatable read failed"),
    41325: Entry("transient", "engine", "memory-optimised: serializable failed"),
    41839: Entry("transient", "engine", "memory-optimised: too many commit dependencies"),
    # -- try again: the transaction is not the one we think ---------------------------------------
    628: Entry("transient", "engine", "no transaction is active"),
    3902: Entry("transient", "engine", "COMMIT without a transaction: the server has ended it"),
    3903: Entry("transient", "engine", "ROLLBACK without a transaction: the server has ended it"),
    3930: Entry("transient", "engine", "the transaction can only be rolled back"),
    3998: Entry("transient", "engine", "an uncommittable transaction at the batch's end"),
    # -- try again: server or database away, failing over, starting -------------------------------
    596: Entry("transient", "engine", "the session was killed by an administrator"),
    617: Entry("transient", "engine", "a table's descriptor was lost"),
    669: Entry("transient", "engine", "a row was moved under the statement"),
    913: Entry("transient", "engine", "the database is being moved"),
    921: Entry("transient", "engine", "the database has not been recovered yet"),
    922: Entry("transient", "engine", "the database is being recovered"),
    927: Entry("transient", "engine", "the database is being restored"),
    952: Entry("transient", "engine", "the database is in transition"),
    976: Entry("transient", "engine", "the replica is not the primary one"),
    978: Entry("transient", "engine", "the replica takes readers only"),
    983: Entry("transient", "engine", "the availability replica is changing its role"),
    997: Entry("transient", "client", "a connection was established, then lost in the login"),
    3906: Entry("transient", "engine", "the database is read-only: a secondary, until the failover is done"),
    4221: Entry("transient", "client", "the readable secondary is not ready"),
    6005: Entry("transient", "engine", "the server is shutting down"),
    17142: Entry("transient", "engine", "the server is paused"),
    17197: Entry("transient", "engine", "login time-out"),
    18401: Entry("transient", "login", "the server is being upgraded"),
    18451: Entry("transient", "login", "only administrators may connect: the server is shutting down"),
    18461: Entry("transient", "login", "the server is in single user mode"),
    20: Entry("transient", "client", "the connection was refused before the login"),
    64: Entry("transient", "client", "connection lost in the login"),
    121: Entry("transient", "client", "time-out of the network"),
    233: Entry("transient", "client", "connection lost before the login"),
    10053: Entry("transient", "client", "connection aborted by this machine"),
    10054: Entry("transient", "client", "connection reset by the server"),
    10060: Entry("transient", "client", "the server did not answer"),
    # -- try again: Azure SQL ---------------------------------------------------------------------
    10928: Entry("transient", "azure", "a resource limit of the database is reached"),
    10929: Entry("transient", "azure", "the server is too busy"),
    10936: Entry("transient", "azure", "a resource limit of the pool is reached"),
    40143: Entry("transient", "client", "the service had an error"),
    40197: Entry("transient", "azure", "the service had an error (a failover, an upgrade)"),
    40501: Entry("transient", "azure", "the service is busy"),
    40540: Entry("transient", "client", "the service had an error"),
    40613: Entry("transient", "azure", "the database is not available now"),
    40549: Entry("transient", "azure", "the transaction took too long", "", too_large=True),
    40550: Entry("transient", "azure", "the transaction holds too many locks", "", too_large=True),
    40551: Entry("transient", "azure", "the transaction uses too much of tempdb", "", too_large=True),
    40552: Entry("transient", "azure", "the transaction uses too much log", "", too_large=True),
    40553: Entry("transient", "azure", "the transaction uses too much memory", "", too_large=True),
    42108: Entry("transient", "client", "the pool is paused"),
    42109: Entry("transient", "client", "the pool is warming up"),
    49918: Entry("transient", "azure", "not enough resources for the request"),
    49919: Entry("transient", "azure", "too many create or update operations"),
    49920: Entry("transient", "azure", "too many operations"),
    # Another process made it at the same moment; next time it is there.
    1913: Entry("transient", "engine", "the index exists already"),
    2714: Entry("transient", "engine", "the object exists already"),
    # -- a row is to blame ------------------------------------------------------------------------
    220: Entry("row", "engine", "arithmetic overflow of a small integer"),
    232: Entry("row", "engine", "arithmetic overflow"),
    241: Entry("row", "engine", "text that is no date or time"),
    242: Entry("row", "engine", "a date outside of the type's range"),
    244: Entry("row", "engine", "text that overflows an integer"),
    245: Entry("row", "engine", "text that is not of the column's type"),
    248: Entry("row", "engine", "text that overflows int"),
    295: Entry("row", "engine", "text that is no smalldatetime"),
    296: Entry("row", "engine", "a date outside of smalldatetime"),
    511: Entry("row", "engine", "a row larger than a page"),
    515: Entry("row", "engine", "null in a column that takes none"),
    517: Entry("row", "engine", "a date overflowed"),
    547: Entry("row", "engine", "a foreign key or check constraint"),
    550: Entry("row", "engine", "WITH CHECK OPTION of a view"),
    1946: Entry("row", "engine", "a value too long for an index"),
    2601: Entry("row", "engine", "a key that exists, of a unique index"),
    2627: Entry("row", "engine", "a key that exists, of a constraint"),
    2628: Entry("row", "engine", "a value too long for its column"),
    3609: Entry("row", "engine", "a trigger ended the transaction"),
    3616: Entry("row", "engine", "an error within a trigger"),
    6522: Entry("row", "engine", "an error within a CLR routine"),
    8114: Entry("row", "engine", "a value that can't be converted"),
    8115: Entry("row", "engine", "arithmetic overflow"),
    8134: Entry("row", "engine", "division by zero, in a computed column"),
    8152: Entry("row", "engine", "a value too long for its column"),
    8169: Entry("row", "engine", "text that is no uniqueidentifier"),
    9400: Entry("row", "engine", "XML: unexpected end"),
    9402: Entry("row", "engine", "XML: the encoding can't be switched"),
    9411: Entry("row", "engine", "XML: a semicolon is missing"),
    9413: Entry("row", "engine", "XML: a quote is missing"),
    9420: Entry("row", "engine", "XML: an illegal character"),
    9436: Entry("row", "engine", "XML: the end tag does not match"),
    9455: Entry("row", "engine", "XML: an illegal name"),
    # -- table, column, permission, login: the flow can't run -------------------------------------
    102: Entry("config", "engine", "syntax"),
    156: Entry("config", "engine", "syntax at a keyword"),
    207: Entry("config", "engine", "no such column", _GONE),
    208: Entry("config", "engine", "no such table", _GONE),
    229: Entry("config", "engine", "permission denied on an object", _GRANT),
    230: Entry("config", "engine", "permission denied on a column", _GRANT),
    262: Entry("config", "engine", "permission denied in the database", _GRANT),
    271: Entry("config", "engine", "a computed column can't be written"),
    273: Entry("config", "engine", "a rowversion column can't be written"),
    297: Entry("config", "engine", "no permission for the action", _GRANT),
    300: Entry("config", "engine", "a server permission is missing", _GRANT),
    334: Entry("config", "engine", "OUTPUT on a table with triggers"),
    468: Entry("config", "engine", "two collations that can't be compared"),
    544: Entry("config", "engine", "a value for an identity column"),
    911: Entry("config", "login", "no such database", "Create the database, or correct its name in DATABASE_URL."),
    916: Entry("config", "login", "the login has no user in the database", _GRANT),
    1088: Entry("config", "engine", "no such table, or no permission to alter it", _GRANT),
    1919: Entry("config", "engine", "a column of a type that can't be a key", "Give the key a length: String(100), not Text."),
    1934: Entry("config", "engine", "SET options at odds with an indexed view or computed column"),
    2705: Entry("config", "engine", "two columns of one name"),
    2760: Entry("config", "engine", "no such schema, or no permission to use it", "Create the schema, or mend DATABASE_TABLE."),
    2812: Entry("config", "engine", "no such procedure"),
    # Azure's lists count it as transient as well; a mistyped name is the far more frequent reason, and a restart goes on.
    4060: Entry("config", "login", "the database can't be opened", "Create the database, or correct its name in DATABASE_URL."),
    4064: Entry("config", "login", "the login's default database can't be opened", _LOGIN),
    8101: Entry("config", "engine", "a value for an identity column"),
    8102: Entry("config", "engine", "an identity column can't be updated"),
    15151: Entry("config", "engine", "no such object, or no permission", _GRANT),
    18452: Entry("config", "login", "the login is from an untrusted domain", _LOGIN),
    18456: Entry("config", "login", "login failed", _LOGIN),
    18470: Entry("config", "login", "the login is disabled", _LOGIN),
    18486: Entry("config", "login", "the login is locked out", _LOGIN),
    18487: Entry("config", "login", "the password has expired", _LOGIN),
    18488: Entry("config", "login", "the password must be changed", _LOGIN),
    40615: Entry("config", "azure", "the server's firewall refuses this address", "Allow this machine in the server's firewall."),
    40914: Entry("config", "azure", "the server's network rules refuse this network", "Allow this network there."),
    # -- neither time nor a row -------------------------------------------------------------------
    823: Entry("target", "engine", "the operating system could not read or write", "Check the disk; run DBCC CHECKDB."),
    824: Entry("target", "engine", "a page is damaged", "Run DBCC CHECKDB, restore a copy."),
    1101: Entry("target", "engine", "no space for a page", _DISK),
    1105: Entry("target", "engine", "no space for an object", _DISK),
    9002: Entry("target", "engine", "the transaction log is full", "Back the log up, or give it space, then start again."),
    9001: Entry("target", "engine", "the transaction log is not available", "See the server's error log."),
    13609: Entry("target", "engine", "text that is no JSON: our bug"),
    40544: Entry("target", "azure", "the database has reached its size limit", "Give the database more space, then start again."),
}  # fmt: skip
# THROW and RAISERROR of a trigger: 50000 and above, as users number them.
_USER = range(50_000, 2_147_483_648)
_XML = range(9_400, 9_470)

# Errors of the driver itself have no number, only an ODBC state.
_DRIVERS_HINT = "`waxwing drivers` shows which ODBC drivers there are."
_STATES: dict[str, tuple[Kind, str]] = {
    "08": ("transient", "Check the host in DATABASE_URL."),
    "HYT00": ("transient", ""),  # login or query time-out
    "HYT01": ("transient", ""),
    "HY000": ("target", ""),
    "HY008": ("transient", ""),  # cancelled
    "IM": ("config", _DRIVERS_HINT),  # no such driver
    "28": ("config", _LOGIN),
    "22": ("row", ""),  # a value that the driver could not convert
    "HY104": ("row", ""),  # a precision that the driver refuses
    "01S00": ("config", "Check the options in DATABASE_URL."),
}
# What the driver says of encryption comes as a lost connection; it will not pass by itself.
_TLS = re.compile(r"SSL Provider|certificate verify failed|self.signed certificate|encryption (is )?not supported", re.IGNORECASE)
_TLS_HINT = "Add Encrypt=no, or TrustServerCertificate=yes for a certificate of the server's own, to DATABASE_URL."

_RECORD = re.compile(r"; (?=\[[0-9A-Z]{5}\] \[)")
_NUMBER = re.compile(r"\((-?\d+)\)$")
_TAIL = re.compile(r" \(SQL\w+\)$")
_HEAD = re.compile(r"^\[[0-9A-Z]{5}\] (\[[^\]]*\])+\s*")
# "The statement has been terminated", "changed database context", "changed language": said beside the error itself.
_BESIDE = {0, 3621, 5701, 5703}


def numbers(message: str) -> list[tuple[int, str]]:
    """The vendor's numbers and texts in a message of pyodbc, which strings several records together."""
    found = []
    for record in _RECORD.split(message):
        text = _TAIL.sub("", record.strip())
        if number := _NUMBER.search(text):
            found.append((int(number[1]), _HEAD.sub("", text[: number.start()]).strip()))
    return found


def failure(state: str, message: str) -> Failure:
    """What an error of the driver means, by the server's number or else by the ODBC state."""
    told = [(number, text) for number, text in numbers(message) if number not in _BESIDE]
    reason = _HEAD.sub("", " ".join(_TAIL.sub("", message).split()))
    if _TLS.search(message):
        return Failure("config", state, reason, _TLS_HINT)
    if "Can't open lib" in message:  # unixODBC, of a driver that is no file
        return Failure("config", state, reason, _DRIVERS_HINT)
    for number, text in told:
        if (entry := entry_of(number)) is not None:
            return Failure(entry.kind, str(number), text or entry.says, entry.hint, entry.too_large)
    known = _STATES.get(state) or _STATES.get(state[:2])
    by_driver = not any(number > 0 for number, _ in told)
    if known is not None and (by_driver or state[:2] == "08"):
        kind, hint = known
        return Failure(kind, state, reason, hint, too_large=state == "HYT00")
    return Failure("target", str(told[0][0]) if told else state, reason)


def entry_of(number: int) -> Entry | None:
    """What a number means; None if nobody knows."""
    if number in NUMBERS:
        return NUMBERS[number]
    if number in _XML:
        return Entry("row", "engine", "XML that can't be parsed")
    return Entry("row", "engine", "raised by a trigger") if number in _USER and number != _BABELFISH else None


# The compatible server that tests run against uses this one number for all that it has no number for.
_BABELFISH = 33_557_097
