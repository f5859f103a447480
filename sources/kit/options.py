"""What any source is told, whatever it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from waxwing.errors import ConfigError
from waxwing.settings import SourceSettings
from waxwing.settings.groups import start_of

_WORDS = {
    "begin": ("", "anew"),
    "until": ("", "end"),
    "on_data_loss": ("fail", "continue"),
    "on_unknown": ("wait", "fail"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What any source is told; `Options.of(settings)` where that comes from outside.

    Attributes:
        lanes: parallel readers; each stream has one.
        start: where a stream begins that nobody holds: earliest, latest, or an ISO time with its zone.
        start_given: `start` was set by somebody, so it is told where it has no say.
        begin: `anew`: begin even where another flow or step filled the table, as the setting BEGIN.
        until: `end`: stop at the ends that the logs had at the start; empty: read for ever.
        on_data_loss: what to do when a log does not hold the stored position.
        on_unknown: what to do while a source is not there.
        batch_records_max: how many records a LaneReader is asked for at most; a `read` says itself how large its runs are.
        refresh_interval_s: how often the source is asked for new streams.
        poll_interval_s: how long after `read` has ended it is called again.
        away_max_s: how long to wait for a source that does not answer.
        end_marks: say at the end of a bounded run that nothing more comes, so that windows close. False: more is to come in
            a later run.
    """

    lanes: int = 4
    start: str = "earliest"
    start_given: bool = False
    begin: Literal["", "anew"] = ""
    until: Literal["", "end"] = ""
    on_data_loss: Literal["fail", "continue"] = "fail"
    on_unknown: Literal["wait", "fail"] = "wait"
    batch_records_max: int = 5_000
    refresh_interval_s: float = 1.0
    poll_interval_s: float = 1.0
    away_max_s: float = 300.0
    end_marks: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.lanes <= 512:
            raise ConfigError(f"A source of {self.lanes} lanes.", hint="Take 1 to 512: a few for each process to come.")
        for name, words in _WORDS.items():
            if (given := getattr(self, name)) not in words:
                raise ConfigError(f"Options: {name} is {given!r}.", hint=f"Take one of {', '.join(map(repr, words))}.")
        try:
            start_of(self.start)
        except (TypeError, ValueError):
            hint = "Take 'earliest', 'latest', or a time with its zone such as '2026-01-31T00:00:00Z'."
            raise ConfigError(f"Options: start is {self.start!r}.", hint=hint) from None
        for name in ("batch_records_max", "refresh_interval_s", "poll_interval_s", "away_max_s"):
            if not (isinstance(number := getattr(self, name), int | float) and number >= (name == "batch_records_max")):
                raise ConfigError(f"Options: {name} is {number!r}.", hint="Take a number; seconds from 0 on, records from 1.")

    @classmethod
    def of(cls, settings: SourceSettings, **fields: object) -> Self:
        """What settings say of it, and whatever other fields are given."""
        told: dict[str, Any] = {name: getattr(settings, name) for name in ("lanes", "start", "begin", "until", "on_data_loss")}
        told["start_given"] = "start" in settings.model_fields_set
        told.update(fields)
        return cls(**told)
