"""Dead letters on every database: whatever a message holds, and however large it is, its letter is stored and can be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import Append, SqlLiveWindows, SqlTarget, SqlWindows
from sinks.writer.writer import Writer
from tests.conformance.place import Place, make_place
from tests.servers import MariaDB, PostgreSQL
from waxwing.batch import Batch, Columns, Headers, Reject, Stream
from waxwing.change import Start
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import SqlSettings, SqlWindowSettings

STREAM = Stream("letters", "topic", "topic-id", 0)


def target(place: Place, flow: str) -> SqlTarget:
    settings = SqlSettings(database_url=SecretStr(place.url.render_as_string(hide_password=False)), owner_stale_s=1.0)
    to = SqlTarget(settings, place.table(sa.Column("id", sa.String(10), primary_key=True)), Append())
    to.place.database, to.place.engine = place.database, place.engine
    to.bind(flow, f"{flow}.out")
    to.prepare()
    return to


Message = tuple[bytes | None, bytes | None, Headers]


def bury(to: SqlTarget, messages: Sequence[Message], reason: str = "no JSON") -> None:
    """Each message, refused, on its way into the table."""
    stream = STREAM._replace(flow=to.flow)
    to.begin([Start(stream, 0, None)])
    size = len(messages)
    keys, values, headers = (list(each) for each in zip(*messages, strict=True))
    held = Columns(list(range(size)), keys, values, [5] * size, headers)
    writer = Writer(to, "lane-000")
    try:
        writer.put(Batch(stream, "lane-000", 0, size, held, [], [], [Reject(n, "pärse\x00", reason) for n in range(size)]))
        writer.flush()
    finally:
        writer.close()


def stored(place: Place, flow: str, columns: str = "message_key, message_value, message_headers, reason") -> list[Any]:
    query = f"SELECT {columns} FROM waxwing_dead_letters WHERE flow = '{flow}' ORDER BY source_offset"
    with place.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


HEADERS: Headers = [
    ("nul", b"a\x00b"),
    ("n\x00ul", b"x"),
    ("sur\ud800rogate", b"x"),
    ("none", None),
    ("bytes", b"\xff\xfe\x00"),
    ("encoded surrogate", b"\xed\xa0\x80"),
    ("hex", b"hex:00"),
    ("text", 'é€日😀"\\\n'.encode()),
    ("empty", b""),
]


def read_headers(text: str) -> list[tuple[str, bytes | None]]:
    """As docs tell how to read them."""
    return [
        (name, None if value is None else bytes.fromhex(value[4:]) if value.startswith("hex:") else value.encode())
        for name, value in json.loads(text)
    ]


def test_whatever_a_message_holds_its_letter_is_stored_and_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mb, name = 1_000_000, place.database.dialect.name
    if name != "mysql":  # where 16 MB are one statement, escapes included; others take far more
        mb = 10_000
        monkeypatch.setattr(place.database, "value_bytes_max", lambda connection: 8 * mb - 8_192)
    messages: list[Message] = [
        (b"\x00'" * (9 * mb // 2), b"value", [("h", b"x")]),
        (b"key", b"value", [("small", b"1"), ("large", b"\xff" * 6 * mb)]),
        (b"key", b"v" * 7 * mb, [("n" * 300, "é".encode() * 2 * mb)]),
        (None, None, ()),
        (b"\x00", b"\xff", HEADERS),
    ]
    bury(target(place, "letters"), messages, reason="bad\x00 \ud800 é€日😀")
    *large, (key, value, headers, reason) = stored(place, "letters")
    why = "bad\\x00 \\ud800 é€日😀"
    left_out = f"{why} (its {{}} is not kept: the server takes no statement so large)"
    assert large == [
        (None, b"value", '[["h", "x"]]', left_out.format(f"key of {9 * mb:,} bytes")),
        (b"key", b"value", '[["small", "1"]]', left_out.format(f"header 'large' of {12 * mb + 19:,} bytes")),
        (b"key", b"v" * 7 * mb, "[]", left_out.format(f"header '{'n' * 50}' of {12 * mb + 310:,} bytes")),
        (None, None, "[]", why),
    ]
    assert (key, value, reason) == (b"\x00", b"\xff", why)
    names = ["nul", "n\\x00ul", "sur\\ud800rogate", *(name for name, _ in HEADERS[3:])]
    assert read_headers(headers) == list(zip(names, [value for _, value in HEADERS], strict=True))
    texts = {
        "postgresql": "CAST(message_headers AS jsonb) -> 7 ->> 1",
        "sqlite": "json_extract(message_headers, '$[7][1]')",
        "mysql": "json_value(message_headers, '$[7][1]')",
        "sqlserver": "JSON_VALUE(message_headers, '$[7][1]')",
    }
    [(text, stage)] = stored(place, "letters' AND source_offset = '4", f"{texts[name]}, stage")
    plain = 'é€日😀"\\\n'
    # (The compatible server's JSON_VALUE leaves escapes as they are.)
    assert text == (json.dumps(plain, ensure_ascii=False)[1:-1] if place.compatible_only() else plain)
    assert stage == "pärse\\x00"


def test_a_small_packet_takes_many_letters_and_a_large_one(mariadb: MariaDB) -> None:
    """The client library would send up to a megabyte of letters at once."""
    place = make_place(sa.make_url(mariadb.new_database()))
    place.run("SET GLOBAL max_allowed_packet = 262144")
    try:
        bury(target(place, "packet"), [(b"k" * 90_000, b"v" * 3_000, [(f"h{n}", b"x" * 100) for n in range(10)])] * 40)
        bury(target(place, "parts"), [(b"k" * 90_000, b"v" * 90_000, [("a", b"\xff" * 50_000), ("b", b"\xff" * 60_000)])])
    finally:
        place.run("SET GLOBAL max_allowed_packet = DEFAULT")
    assert {len(key) for (key,) in stored(place, "packet", "message_key")} == {90_000}
    assert len(stored(place, "packet")) == 40
    [(key, value, headers, reason)] = stored(place, "parts")
    assert [len(key or b""), len(value or b""), headers] == [0, 90_000, "[]"]
    assert "its key of 90,000 bytes and 2 headers of 220,0" in reason
    assert "are not kept" in reason


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("LATIN1", "latin-1"),
        ("LATIN9", "iso8859-15"),
        ("WIN1252", "cp1252"),
        ("KOI8R", "koi8-r"),
        ("EUC_JP", "ascii"),
        ("SQL_ASCII", "ascii"),
    ],
)
def test_whatever_the_encoding_of_the_database_bookkeeping_is_stored(postgresql: PostgreSQL, encoding: str, codec: str) -> None:
    name = f"encoded_{encoding.lower()}"
    with psycopg.connect(postgresql.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    place = make_place(sa.make_url(postgresql.url(name)))
    # All that Python says the encoding has, and what it lacks.
    has = "".join(char for char in map(chr, [*range(1, 0xD800), *range(0xE000, 0x1_0000)]) if char.encode(codec, "ignore"))
    to = target(place, "encoded")
    bury(to, [(b"k", b"v", [*HEADERS, ("größe", has.encode())])], reason=f"{has}日😀\x00\ud800")
    [(text, reason)] = stored(place, "encoded", "message_headers, reason")
    assert reason == f"{has}日😀\x00\ud800".replace("\x00", "\\x00").encode(codec, "backslashreplace").decode(codec)[:2_000]
    assert read_headers(text)[-1] == ("größe".encode(codec, "backslashreplace").decode(codec), has.encode())
    with place.engine.connect() as connection:
        assert (
            connection.scalar(sa.text("SELECT jsonb_array_length(CAST(message_headers AS jsonb)) FROM waxwing_dead_letters"))
            == 10
        )
    if codec == "ascii":
        with pytest.raises(ConfigError, match=r"The source's name 'Größe' can't be stored.*another name"):
            to.begin([Start(STREAM._replace(flow="encoded", source="Größe"), 0, None)])


def test_definitions_of_windows_are_stored_in_any_encoding_and_those_of_before_are_read(postgresql: PostgreSQL) -> None:
    with psycopg.connect(postgresql.url(), autocommit=True) as admin:
        admin.execute(b"CREATE DATABASE windows_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    place = make_place(sa.make_url(postgresql.url("windows_latin1")))
    windows = Windows(by=("größe",), time="t", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=1)
    columns: list[sa.Column[Any]] = [
        sa.Column("größe", sa.String(10), primary_key=True),
        sa.Column("window_start", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("n", sa.BigInteger),
    ]
    settings = SqlWindowSettings(database_url=SecretStr(place.url.render_as_string(hide_password=False)), window_buckets=1)
    for kind, name in ((SqlWindows, "closed"), (SqlLiveWindows, "live")):
        for old in (False, True):
            table = sa.Table(name, sa.MetaData(), *(column._copy() for column in columns))
            to = kind(settings, table, windows)
            to.bind(name, f"{name}.out")
            to.prepare()
            to.begin([Start(STREAM._replace(flow=name), 0, None)])
            if not old:
                place.run("UPDATE waxwing_windows SET definition = replace(definition, '\\xf6', 'ö')")
