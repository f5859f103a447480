"""What errors of SQL Server mean: by the server's number, else by the ODBC state.

Numbers: numbers.py. States: https://learn.microsoft.com/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes
"""

from __future__ import annotations

import re

from waxwing.databases.refusals import ADDRESS_HINT, UNKNOWN, Failure, Meaning
from waxwing.databases.sqlserver.numbers import LOGIN, NUMBERS, Entry

# Errors of the driver itself have no number, only an ODBC state.
_DRIVERS_HINT = "`waxwing drivers` shows which ODBC drivers there are."
_TRANSIENT, _BUG = Meaning("transient"), Meaning("statement")
_OPTIONS = Meaning("config", "Check the options in DATABASE_URL.")
STATES: dict[str, Meaning] = {
    "01": _BUG,  # warnings
    "01S00": _OPTIONS,
    "01S02": _OPTIONS,
    "07": _BUG,  # parameters
    "08": Meaning("transient", ADDRESS_HINT),
    "21": Meaning("table"),  # another number of columns
    "22": Meaning("row"),  # a value that can't be converted
    "23": Meaning("row"),  # a constraint
    "24": _BUG,  # cursor
    "25": _BUG,  # transaction
    "25S01": _TRANSIENT,  # outcome unknown
    "25S02": _TRANSIENT,
    "25S03": _TRANSIENT,  # rolled back
    "28": Meaning("config", LOGIN),
    "34": _BUG,
    "3C": _BUG,
    "3D": Meaning("config", LOGIN),
    "3F": Meaning("config", "Create the schema, or mend DATABASE_TABLE."),
    "40": _TRANSIENT,  # deadlock, rolled back
    "40002": Meaning("row"),
    "42S": Meaning("table"),  # no such table, column, index
    "42S01": _TRANSIENT,  # it exists: another process made it
    "42S11": _TRANSIENT,
    "44": Meaning("row"),  # WITH CHECK OPTION
    "HY": _BUG,  # of the calls to the driver
    "HY000": UNKNOWN,
    "HY001": _TRANSIENT,  # memory
    "HY008": _TRANSIENT,  # cancelled
    "HY013": _TRANSIENT,  # memory
    "HY104": Meaning("row"),  # a precision that the driver refuses
    "HY117": _TRANSIENT,  # the connection is suspended
    "HYC00": Meaning("config", "The driver or the server is too old for it."),
    "HYT00": Meaning("transient", too_large=True),  # query time-out
    "HYT01": _TRANSIENT,  # connection time-out
    "IM": Meaning("config", _DRIVERS_HINT),  # no such driver
}
# THROW and RAISERROR of a trigger: 50000 and above, as users number them.
_USER = range(50_000, 2_147_483_648)
_XML = range(9_400, 9_470)

# What the driver says of encryption comes as a lost connection; it will not pass by itself.
_TLS = re.compile(r"SSL Provider|certificate verify failed|self.signed certificate|encryption (is )?not supported", re.IGNORECASE)
_TLS_HINT = "Add Encrypt=no, or TrustServerCertificate=yes for a certificate of the server's own, to DATABASE_URL."

_RECORD = re.compile(r"; (?=\[[0-9A-Z]{5}\] \[)")
_NUMBER = re.compile(r"\((-?\d+)\)$")
_TAIL = re.compile(r" \(SQL\w+\)$")
_HEAD = re.compile(r"^\[[0-9A-Z]{5}\] (\[[^\]]*\])+\s*")
_NOT_NULL, _OVERFLOW, _CONFLICTS = 515, 8_115, {547, 2601, 2627}
_CHECK_OR_KEY = re.compile(
    r"(?:CHECK|FOREIGN KEY)(?: SAME TABLE)? constraint \"([^\"]+)\"|(?:constraint|unique index) ['\"]([^'\"]+)['\"]",
    re.IGNORECASE,
)
_NULL = re.compile(r"into column '([^']+)'")
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
            if number == _OVERFLOW and "IDENTITY" in text:  # of no value that a row brings
                return Failure("table", str(number), text, "The identity column is at its end: give it a larger type.")
            null = _NULL.search(text) if number == _NOT_NULL else None
            column = null[1] if null else ""
            refused = _CHECK_OR_KEY.search(text) if number in _CONFLICTS else None
            constraint = refused[1] or refused[2] if refused else ""
            return Failure(entry.kind, str(number), text or entry.says, entry.hint, entry.too_large, column, constraint)
    # (What a lost connection is numbered with is the operating system's.)
    by_server = state[:2] != "08" and told and told[0][0] > 0
    return of_state(state).failure(told[0][0] if by_server else state, reason)


def of_state(state: str) -> Meaning:
    """What an ODBC state means."""
    return STATES.get(state) or STATES.get(state[:3]) or STATES.get(state[:2]) or UNKNOWN


def entry_of(number: int) -> Entry | None:
    """What a number means; None if nobody knows."""
    if number in NUMBERS:
        return NUMBERS[number]
    if number in _XML:
        return Entry("row", "engine", "XML that can't be parsed")
    return Entry("row", "engine", "raised by a trigger") if number in _USER and number != _BABELFISH else None


# The compatible server that tests run against uses this one number for all that it has no number for.
_BABELFISH = 33_557_097
