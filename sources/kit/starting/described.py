"""What a source says of itself, looked at before anything is done with it: a mistake of its author is told by its name."""

from __future__ import annotations

from collections.abc import Iterable

from sources.kit.any_source import AnySource
from sources.kit.words import Log
from waxwing.batch import SOURCE_CHARACTERS_MAX, TOKEN_BYTES_MAX
from waxwing.errors import ConfigError

Named = tuple[str, str, int]
HINT = "Correct the source: docs/your-own-source.md says what it gives."
NUMBER_END = 2**63
PARTITION_END = 2**31


def described(source: AnySource) -> list[Log]:
    """What the source describes.

    Raises:
        ConfigError: something in it can't be.
    """
    found: object = source.describe()
    says = f"{type(source).__name__}.describe()"
    if not isinstance(found, Iterable):
        raise ConfigError(f"{says} gave {found!r}.", hint="It gives a Log for each stream; an empty list where there is none.")
    logs: list[Log] = []
    for log in found:
        if not isinstance(log, Log):
            raise ConfigError(f"{says} gave {log!r}, which is no Log.", hint=HINT)
        logs.append(log)
    _demand_streams(source, says, [(log.source, log.source_id, log.partition) for log in logs])
    for log in logs:
        of_log = f"{says}, Log {log.source!r}"
        for name in ("first", "end", "written"):
            number: object = getattr(log, name)
            if not (_is_number(number, NUMBER_END) or (number is None and name != "first")):
                raise ConfigError(f"{of_log}: {name} is {number!r}, and has to be an int from 0.", hint=HINT)
        for name in ("token", "end_token"):
            demand_token(f"{of_log}: {name}", getattr(log, name))
    return logs


def listed(source: AnySource) -> list[Named]:
    """The streams that the source lists.

    Raises:
        ConfigError: something in it can't be.
    """
    found = list(source.listed())
    _demand_streams(source, f"{type(source).__name__}.listed()", found)
    return found


def demand_token(what: str, token: object) -> None:
    """Raises ConfigError where it is no token that can be kept."""
    if token is not None and not isinstance(token, bytes):
        raise ConfigError(f"{what} is {token!r}, and has to be bytes (or None).", hint=HINT)
    if token is not None and len(token) > TOKEN_BYTES_MAX:
        raise ConfigError(f"{what} has {len(token):,} bytes: at most {TOKEN_BYTES_MAX:,} can be kept.", hint=HINT)


def _demand_streams(source: AnySource, says: str, streams: list[Named]) -> None:
    owners: dict[tuple[str, int], str] = {}
    for name, source_id, partition in streams:
        _demand_text(f"{says}: the source", name)
        if not source.fits(name):
            raise ConfigError(
                f"{says} gave {name!r}, which is not among what {type(source).__name__} said that it reads: {source.called}.",
                hint="Leave it out, or announce it: super().__init__(names), or a pattern of them.",
            )
        _demand_text(f"{says}, source {name!r}: source_id", source_id)
        if source_id.endswith(" "):  # some databases pass over it
            raise ConfigError(f"{says}, source {name!r}: source_id {source_id!r} ends with a blank.", hint=HINT)
        if not _is_number(partition, PARTITION_END):
            raise ConfigError(f"{says}, source {name!r}: partition is {partition!r}, and has to be an int from 0.", hint=HINT)
        other = owners.setdefault((source_id, partition), name)
        if other != name:
            raise ConfigError(
                f"{says}: {other!r} and {name!r} have one source_id, {source_id!r}, so their positions would be one.",
                hint="Give each an id of its own, unique among all streams of the source. Is it one and the same under two names "
                "(a link)? Leave one out.",
            )
    if len(owners) < len(streams):
        twice = next(one for number, one in enumerate(streams) if one in streams[:number])
        raise ConfigError(f"{says} gave {twice[0]!r}, partition {twice[2]}, twice.", hint=HINT)


def _demand_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"{what} is {text!r}, and has to be a str.", hint=HINT)
    try:
        size = len(text.encode("utf-16-le")) // 2  # as databases count
    except UnicodeEncodeError:
        raise ConfigError(f"{what}, {text!r}, is no text that could be stored.", hint="Rename it, or leave it out.") from None
    if not text or "\0" in text:
        raise ConfigError(f"{what} is {text!r}: it can't be empty, nor hold a zero.", hint=HINT)
    if size > SOURCE_CHARACTERS_MAX:
        raise ConfigError(
            f"{what} has {size} characters, {text[:40]!r}...: at most {SOURCE_CHARACTERS_MAX} can be stored.",
            hint="Shorten it; of an id a digest will do.",
        )


def _is_number(value: object, end: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end
