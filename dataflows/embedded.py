"""The embedded demonstration: with no settings at all, a flow runs against a Kafka inside this process and a SQLite file.

The code path is the one of production; only the addresses differ.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from confluent_kafka import Producer
from pydantic import SecretStr

from dataflows import shown
from dataflows.sending import PRODUCER_CONFIG, Keyed, Sender
from waxwing import log, runtime
from waxwing.errors import ConfigError, TransientError
from waxwing.metrics import counters
from waxwing.settings import KafkaSettings

FOLDER = Path("var")
START_TIMEOUT_S = 10.0

_held: list[Producer] = []  # the cluster lives as long as the client that it was made with
S = TypeVar("S", bound=KafkaSettings)


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What a flow's demonstration is made of.

    Attributes:
        records: what the records are called.
        chunks: the records.
        file: of the database, in FOLDER; made anew.
        tables: that the flow fills there. None: it needs no database.
        topics: that it fills.
        refused: stage and reason of each dead letter, where it fills neither.
        lines: further ones for the end, such as how to read its files.
        real: the addresses that it takes, a line each.
    """

    records: str
    chunks: Iterable[Sequence[Keyed]]
    file: str
    tables: Sequence[sa.Table] = ()
    topics: Sequence[str] = ()
    refused: Callable[[], Iterable[tuple[str, str]]] = list
    lines: Sequence[str] = ()
    real: Sequence[str] = (
        "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092",
        "DATABASE_URL=postgresql://user:password@127.0.0.1:5432/shop      (or sqlite:////path/to/orders.sqlite)",
    )

    @property
    def to_real_servers(self) -> str:
        """How to go on from here."""
        both = "give both addresses" if len(self.real) == 2 else "give the address"
        lines = "".join(f"\n  {line}" for line in self.real)
        return f"To run against real servers, {both} (in the environment or in .env):{lines}\nAll settings: `waxwing settings`."


def start(settings: S, demonstration: Demonstration) -> S:
    """Start the demonstration's Kafka and fill it; return the settings with its addresses.

    At the end of the run it says what was done: in the tables and in the topics.

    Raises:
        ConfigError: with several processes, which could not reach a Kafka inside one of them.
    """
    called, names = demonstration.records, [line.partition("=")[0] for line in demonstration.real]
    if runtime.in_cluster():
        raise ConfigError(
            "The embedded demonstration is one process, and this flow was started with -i/-a.",
            hint=f"Give {' and '.join(names)}, or start it without (-w works).",
        )
    at_least_once = (
        "\nThat Kafka has no transactions: its topics are written with KAFKA_TRANSACTIONS=no." if demonstration.topics else ""
    )
    log.warning(
        "demonstration",
        f"DEMONSTRATION: no KAFKA_BOOTSTRAP_SERVERS was given, so the Kafka and the {called} are made up.{at_least_once}\n"
        f"{demonstration.to_real_servers}",
    )
    update: dict[str, Any] = {}
    url = _new_file(FOLDER / demonstration.file) if demonstration.tables else None
    if url is not None:
        update["database_url"] = SecretStr(url.render_as_string())
    topic = settings.source_topic.partition(",")[0]
    servers, count = _fill(topic, demonstration)
    log.info("demonstration_filled", f"{count:,} generated {called} lie in topic {topic} of a Kafka inside this process.")
    started_s = time.monotonic()
    runtime.at_end(lambda: _report(demonstration, servers, url, time.monotonic() - started_s))
    update |= {"kafka_bootstrap_servers": servers, "source_topic": topic, "source_topic_pattern": "", "until": "end"}
    if "kafka_transactions" in type(settings).model_fields:
        update["kafka_transactions"] = "no"
    return settings.model_copy(update=update)


def new_folder(name: str) -> Path:
    """A folder of this name in FOLDER, empty.

    A new one each time: the topic is a new one, too, and positions of an earlier one would not fit it.

    Raises:
        ConfigError: it can't be made.
    """
    folder = FOLDER / name
    try:
        shutil.rmtree(folder, ignore_errors=not folder.exists())
        folder.mkdir(parents=True)
    except OSError as error:
        raise _not_made(folder, error) from error
    return folder


def _new_file(file: Path) -> sa.URL:
    """As `new_folder`."""
    try:
        file.parent.mkdir(exist_ok=True)
        for old in file.parent.glob(f"{file.name}*"):  # with its write-ahead log
            old.unlink()
    except OSError as error:
        raise _not_made(file, error) from error
    return sa.URL.create("sqlite", database=str(file.absolute()))


def _not_made(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The demonstration can't make {path}: {error.strerror}.", hint="Run it in a folder that you may write to."
    )


def _fill(topic: str, demonstration: Demonstration) -> tuple[str, int]:
    """Start the cluster and send the records; returns its address, and how many they are. Its topics have 4 partitions."""
    producer = Producer({**PRODUCER_CONFIG, "test.mock.num.brokers": 1, "log_level": 0})
    _held.append(producer)
    sender = Sender(producer, topic)
    for chunk in demonstration.chunks:
        sender.send(chunk)
    if missing := sender.finish():
        raise TransientError(
            f"The Kafka inside this process did not take {missing:,} of {sender.sent:,} {demonstration.records}.",
            hint="Try again.",
        )
    brokers = producer.list_topics(timeout=START_TIMEOUT_S).brokers.values()
    return ",".join(f"{broker.host}:{broker.port}" for broker in brokers), sender.sent


def _report(demonstration: Demonstration, servers: str, url: sa.URL | None, seconds: float) -> None:
    """What the run did, read from where it was written."""
    if not counters.tally.transactions:  # only drawn, or stopped before it began
        return
    found = [shown.of_topic(servers, topic) for topic in demonstration.topics]
    if url is not None:
        tables, letters = shown.of_database(url, demonstration.tables)
        found = [*tables, *found]
    elif found:
        letters = shown.letters_of_topic(servers, f"{demonstration.topics[0]}.dead_letters")
    else:
        letters = shown.by_reason(demonstration.refused())
    read = counters.tally.records
    rows = "".join(f", {one.total:,} {one.unit} in {one.name}" for one in found if one is found[0] or one.unit != found[0].unit)
    summary = f"{read:,} {demonstration.records} read{rows}, {sum(letters.values()):,} dead letters"
    summary += f", in {seconds:.1f} s ({read / seconds:,.0f} {demonstration.records}/s)."
    places = [f"The rows lie in {FOLDER / demonstration.file}."] if url is not None else []
    if not log.terminal:
        text = " ".join([summary, *places, *demonstration.lines])
        log.info("demonstration_done", text, rows=found[0].rows if found else [], dead_letters=letters)
        return
    shown.show(found, letters, "\n".join(["", summary, *places, *demonstration.lines, "", demonstration.to_real_servers]))
