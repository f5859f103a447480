"""What nobody may read: passwords and the like, masked where settings are shown, and taken out of all that is said.

Two nets. `masked` shows a setting's text without what is secret in it, and hides whole what it can't take apart. `remember`
learns the secrets themselves when settings are read; `scrub` takes them out of every line that is logged and every reason that
is stored, whoever wrote it (a driver, a user's own exception).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "(hidden)"
# Shorter ones stand in ordinary words: taking them out would make a riddle of every message.
_SECRET_CHARACTERS_MIN = 6
_NAME = re.compile(
    r"pass|pasw|pwd|secret|token|credential|authorization|cookie|jaas|odbc_connect"
    r"|(api|access|account|shared|private|encryption|master)[-_.]?key|^key$|sas$|signature|key[-_.]?pem|^ssl[-_.]key$"
    r"|^auth$|pw$",
    re.IGNORECASE,
)
# "user:password@" before anything else, with or without a scheme; what a mistyped URL looks like, too.
# (Blanks in a password are nothing unusual behind a scheme; without one they end a word.)
_LOGIN = re.compile(r"[^\s:/@]*:[^\s@]+@|^\s*[\w+.-]+://[^:/@]*:[^@]+@")
_PRIVATE_KEY = re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(.+)")
_TO_THE_NEXT = re.compile(r"[^&;\s]+")
# name=value, of a URL's query, of an ODBC line, of a DSN; "name": "value" of JSON.
_OPTION = re.compile(r"([\w.-]+)\"?\s*[=:]\s*(?:(\{(?:[^{}]|\}\})*\}|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')|([^&;,\s{}\"]+))")
# A program's option (`kinit --password ...`), a header's value, the token in place of a user of https://token@host.
_WORD = re.compile(
    r"(?i)(?:(?<![\w-])--?(?:[\w-]*(?:pass(?:word|wd|phrase)?|pwd|token|secret)|p)|\bbearer|\bbasic)[\s=]+([^\s\"']+)"
)
_TOKEN = re.compile(r"(?i)\bhttps?://([^\s:/@]+)(?::[^\s/@]*)?@")
_URL = re.compile(r"^\s*[\w+.-]+:/{2,}")

_known: set[str] = set()


def is_name_of_secret(name: str) -> bool:
    """Does an option, key or setting of this name hold a secret?"""
    return _NAME.search(name) is not None


def masked(text: str) -> str:
    """The text of a setting as it may be shown: whole, or hidden whole where it holds a login or a secret option."""
    return HIDDEN if any(True for _ in _inside(text)) else text


def masked_json(text: str, shape: type[dict[Any, Any] | list[Any]] = dict) -> str:
    """JSON with the values of secret keys hidden; hidden whole where it is not of that shape."""
    try:
        config = json.loads(text)
    except (TypeError, ValueError):
        return HIDDEN
    return json.dumps(_without(config)) if isinstance(config, shape) else HIDDEN


def _without(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, name) for one in value]
    if is_name_of_secret(name):
        return HIDDEN
    return masked(value) if isinstance(value, str) else value


def remember(text: str, *, whole: bool = False) -> None:
    """Learn the secrets in the text of a setting; `whole`: the text itself is one."""
    found = {text} if whole else set(_inside(text))
    public = set() if whole else {*re.findall(r"//([^:/@\s]+):", text), *re.findall(r"@[^/?\s]*/([^?\s]+)", text)}
    for secret in found:
        # What is also the user's or the database's name is nobody's secret, and stands in many a message.
        if len(secret) >= _SECRET_CHARACTERS_MIN and secret not in public:
            plain = {secret, unquote(secret), unquote_plus(secret)}
            _known.update(
                plain, *({quote(one, safe=""), quote_plus(one), json.dumps(one)[1:-1], repr(one)[1:-1]} for one in plain)
            )


def remember_environment(values: Mapping[str, str]) -> None:
    """Learn what is secret by its name alone: PGPASSWORD, a token of the user's own, a mistyped setting."""
    for name, value in values.items():
        # Neither a number (TOKENS_MAX) nor a path (PWD, SECRETS_FOLDER) is a secret by itself.
        if is_name_of_secret(name) and not value.isdecimal() and not value.startswith(("/", ".", "~")):
            remember(value, whole=True)


def remember_json(text: str, *, whole: bool = False) -> None:
    """Learn the secrets in JSON; `whole`: each text in it is one."""
    try:
        config = json.loads(text)
    except (TypeError, ValueError):
        return

    def learn(value: Any, name: str = "") -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                learn(one, str(key))
        elif isinstance(value, list):
            for one in value:
                learn(one, name)
        elif isinstance(value, str):
            remember(value, whole=whole or is_name_of_secret(name))

    learn(config)


def scrub(text: str) -> str:
    """The text without the secrets that are known."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            # One that is an ordinary word is no secret as a part of another: "waxwing" of waxwing_progress.
            text = re.sub(rf"\b{secret}\b", HIDDEN, text) if secret.isalpha() else text.replace(secret, HIDDEN)
    return text


def scrub_bytes(line: bytes) -> bytes:
    """The same for a line of output."""
    if not _known:
        return line
    text = line.decode(errors="surrogateescape")
    clean = scrub(text)
    return line if clean is text else clean.encode(errors="surrogateescape")


def _inside(text: str) -> Iterator[str]:
    """The secrets in a text: passwords of logins, values of secret options."""
    head, _, query = text.partition("?")
    if "@" in query and _URL.match(text) and "@" not in head:  # a password with a question mark in it
        head, query = text, ""
    if _LOGIN.search(head):
        # Up to the last "@": an unescaped one is a part of the password.
        login = head.rpartition("@")[0]
        login = re.sub(r"^.*?//", "", login, count=1) if "//" in login else login.rsplit(None, 1)[-1]
        password = login.partition(":")[2]
        yield from filter(None, {password, *password.split("@")})
    yield from _PRIVATE_KEY.findall(text)
    yield from _WORD.findall(text)
    yield from _TOKEN.findall(text)
    options = query or _URL.sub("", head)
    for found in _OPTION.finditer(options):
        name, quoted, bare = found.groups()
        value = quoted[1:-1] if quoted else bare
        if is_name_of_secret(name) and value:
            yield value
            if quoted:
                yield re.sub(r"\\(.)|(\})\}", r"\1\2", value)  # as it is meant
            else:
                yield from _TO_THE_NEXT.findall(options, found.start(3))[:1]  # a comma is a part of it in an ODBC line
        if "=" in (inner := unquote_plus(value)) and inner != value:
            yield from _inside(inner)
