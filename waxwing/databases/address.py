"""Where a database is: the text of a setting as a SQLAlchemy URL, refused with what to do and without its password."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from waxwing.errors import ConfigError

EXAMPLE = "postgresql://user:password@127.0.0.1:5432/shop or sqlite:////var/lib/waxwing/orders.sqlite"
PORT_MAX = 65_535
# user:password@a:5432,b:5432/name: several hosts, which SQLAlchemy takes only as options.
_HOSTS = re.compile(r"^(?P<head>[\w+]+://(?:[^@/]*(?::[^@]*)?@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<tail>[/?].*)?$")


def parsed(text: str, setting: str = "DATABASE_URL") -> sa.URL:
    """The URL that the text of `setting` means.

    Several hosts (`a:5432,b:5432`) become `host` options, as libpq and SQLAlchemy take them.

    Raises:
        ConfigError: it is no URL, or a character in user or password is not percent-encoded. Never with the text itself.
    """
    text = text.strip()
    if "\x00" in text:
        raise ConfigError(f"{setting} holds U+0000.", hint="Write it anew: a file was cut, or is no plain text.")
    try:
        hosts = _HOSTS.match(text)
        if hosts is None:
            url = sa.make_url(text)
        else:
            url = sa.make_url(f"{hosts['head']}{hosts['tail'] or ''}").update_query_dict(_of_hosts(hosts["hosts"]))
    except (sa.exc.ArgumentError, ValueError):
        raise (
            _encode(setting)
            if text.count("@") > 1
            else ConfigError(
                f"{setting} is no URL such as {EXAMPLE}.",
                hint="Characters such as '@', ':', '/' and '%' in user or password are written %40, %3A, %2F, %25.",
            )
        ) from None
    ports = [url.port] if hosts is None else [int(port) for port in re.findall(r":(\d+)(?:,|$)", hosts["hosts"])]
    for port in ports:
        if port is not None and not 1 <= port <= PORT_MAX:
            ends = f"end at {PORT_MAX}" if port else "begin at 1"
            raise ConfigError(
                f"{setting} has the port {port}, and ports {ends}.", hint="Give the port that the server listens at."
            )
    if url.get_backend_name() != "sqlite" and any(
        "@" in str(part or "") for part in (url.host, url.database, hosts and hosts["hosts"])
    ):
        raise _encode(setting)
    return url


def _of_hosts(text: str) -> dict[str, str | list[str]]:
    """The options that several hosts become."""
    if "[" not in text:
        return {"host": text.split(",")}
    # SQLAlchemy would divide IPv6 addresses at their colons: as libpq writes it, which takes no brackets.
    each = [re.fullmatch(r"\[?(.*?)\]?(?::(\d+))?", one) for one in text.split(",")]
    parts = [one.groups("") for one in each if one is not None]
    return {"host": ",".join(host for host, _ in parts), "port": ",".join(port for _, port in parts)}


def place(url: sa.URL) -> str:
    """Host, port and database, or the file: what may be shown of a URL."""
    hosts = url.query.get("host", ())
    where = ",".join([hosts] if isinstance(hosts, str) else hosts)
    if url.host:
        where = f"{url.host}:{url.port}" if url.port else url.host
    return "/".join(part for part in (where, url.database) if part)


@cache
def resolved(url: sa.URL, port_default: int | None) -> tuple[object, ...]:
    """What two URLs of one database have in common, however its host is written (not: through another port)."""
    if not url.host:
        file = str(Path(url.database).resolve()) if url.database and url.get_backend_name() == "sqlite" else url.database
        return file, tuple(sorted(url.query.items()))
    try:
        host: object = frozenset(str(info[4][0]) for info in socket.getaddrinfo(url.host, None, socket.AF_INET))
    except OSError:
        host = url.host
    return host, url.port or port_default, url.database


def _encode(setting: str) -> ConfigError:
    return ConfigError(
        f"{setting}: user or password has an '@' in it.",
        hint="Percent-encode it: '@' is %40 (and ':' %3A, '/' %2F, '%' %25).",
    )


@contextlib.contextmanager
def named(setting: str) -> Iterator[None]:
    """Let what is refused within name the setting that gave the URL (empty: nobody knows which)."""
    try:
        yield
    except ConfigError as error:
        if setting:
            is_named = "DATABASE_URL" in error.message
            error.message = error.message.replace("DATABASE_URL", setting) if is_named else f"{setting}: {error.message}"
            error.hint = error.hint.replace("DATABASE_URL", setting)
        raise


def check_options(url: sa.URL, known: Iterable[str], *, several_hosts: bool = False) -> None:
    """Look at the options behind the question mark; capitals are of no matter.

    Raises:
        ConfigError: one that nobody knows, with the nearest that is known; one given twice; several hosts where one is taken.
    """
    names = {name.lower(): name for name in known}
    for name, value in url.query.items():
        if name == "host" and not isinstance(value, str) and not several_hosts:
            raise ConfigError(
                "DATABASE_URL names several hosts, and this database takes one.", hint="Give it as host:port, without a comma."
            )
        if name.lower() not in names:
            near = get_close_matches(name.lower(), names, 1)
            told = f"Leave it out. There are: {', '.join(sorted(names.values())) or 'none'}."
            raise ConfigError(
                f"DATABASE_URL has the option {name}, which is not taken from a URL.",
                hint=f"Did you mean {names[near[0]]}?" if near else told,
            )
        if not isinstance(value, str) and name != "host":
            raise ConfigError(f"DATABASE_URL gives the option {name} {len(value)} times.", hint="Give it once.")


_CONNECTING = "This was met while connecting."


def note_connecting(engine: sa.Engine) -> None:
    """Let errors of this engine tell whether a connection could be made at all."""

    @sa.event.listens_for(engine, "handle_error")
    def connecting(context: sa.engine.ExceptionContext) -> None:
        if context.connection is None:
            context.original_exception.add_note(_CONNECTING)


def was_connecting(error: BaseException | None) -> bool:
    """Was this error met while connecting, before anything could be asked?"""
    return _CONNECTING in getattr(getattr(error, "orig", None) or error, "__notes__", ())
