"""Settings: where they come from, what is refused and how; and what is generated from them."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretBytes, SecretStr

from dataflows.orders import OrdersSettings
from dataflows.sensors import SensorsSettings
from waxwing.cli import reference
from waxwing.cli.reference import env_file, markdown
from waxwing.errors import ConfigError
from waxwing.secrets import HIDDEN, scrub
from waxwing.settings import Group, KafkaSettings, SqlSettings
from waxwing.settings.checking import load
from waxwing.settings.names import environment_names, names_of
from waxwing.settings.reading import ENV_FILE, read
from waxwing.settings.secret import shown

ROOT = Path(__file__).parents[3]
NAMES = names_of(OrdersSettings)
SECRET = "s3cret-w0rd"
BOTH = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "DATABASE_URL": "sqlite:///orders.sqlite"}


class Place:
    """An environment and a working folder of a test's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch, self._folder = monkeypatch, folder

    def __call__(self, dotenv: str | None = None, **environment: str) -> Place:
        for name in os.environ:
            if name.upper() in NAMES:
                self._monkeypatch.delenv(name)
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        self._folder.joinpath(ENV_FILE).unlink(missing_ok=True)
        if dotenv is not None:
            self._folder.joinpath(ENV_FILE).write_text(dotenv)
        return self

    def refusal(self, kind: type[KafkaSettings] = OrdersSettings) -> str:
        with pytest.raises(ConfigError) as refused:
            load(kind)
        return str(refused.value)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(monkeypatch, tmp_path)


TLS = {"KAFKA_SECURITY_PROTOCOL": "SSL"}


# -- where they come from --------------------------------------------------------------------------


def test_with_nothing_given_every_setting_has_its_default(place: Place) -> None:
    place()
    assert load(OrdersSettings) == OrdersSettings()


def test_the_environment_wins_over_the_file_also_by_the_other_name(place: Place) -> None:
    place(
        "KAFKA_BOOTSTRAP_SERVERS=file:1\nSINK_GROUP_ID=file\nLANES=7\n",
        **BOTH | {"KAFKA_BOOTSTRAP_SERVERS": ""},
        KAFKA_BROKERS="env:1",
    )
    loaded = load(OrdersSettings)
    assert (loaded.kafka_bootstrap_servers, loaded.kafka_group_id, loaded.lanes) == ("env:1", "file", 7)


def test_an_empty_value_counts_as_none(place: Place) -> None:
    place("LANES=\n", START="")
    assert load(OrdersSettings) == OrdersSettings()


def test_every_setting_can_be_given_by_each_of_its_names(place: Place) -> None:
    for field, info in OrdersSettings.model_fields.items():
        for name in environment_names(field, info):
            place(**{name: "1"})
            assert read(OrdersSettings, [])[field].name == name


def test_json_becomes_the_settings_of_librdkafka(place: Place) -> None:
    place(**BOTH, KAFKA_CONFIG='{"fetch.max.bytes": 1000}')
    assert load(OrdersSettings).kafka_config == {"fetch.max.bytes": 1000}


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"LANES": "0"}, "A setting is wrong: LANES: must be greater than or equal to 1 (it is '0')."),
        ({"LANES": "many"}, "LANES: must be a valid integer, unable to parse string as an integer (it is 'many')."),
        ({"UNTIL": "END"}, "UNTIL: must be '' or 'end' (it is 'END')."),
        ({"START": "yesterday"}, "START: must be earliest, latest, or a time with its zone"),
        ({"START": "2026-01-31T00:00:00"}, "START: must be earliest, latest, or a time with its zone"),
        ({"SOURCE_TOPIC": "raw orders"}, "SOURCE_TOPIC: must be made of letters, digits,"),
        (BOTH | {"KAFKA_BOOTSTRAP_SERVERS": "a:1;b:1"}, "KAFKA_BOOTSTRAP_SERVERS: must be host:port, several separated"),
        ({"KAFKA_CONFIG": "{'a': 1}"}, "KAFKA_CONFIG is no JSON:"),
        ({"KAFKA_CONFIG": "[1]"}, "KAFKA_CONFIG: must be a valid dictionary."),
        (BOTH | {"DATABASE_URL": "orders.sqlite"}, "DATABASE_URL is no URL such as postgresql://"),
        (BOTH | {"DATABASE_URL": "postgresql://u@h:99999/x"}, "DATABASE_URL has the port 99999, and ports end at 65535"),
        (BOTH | {"DATABASE_URL": "postgresql://u@a:5432,b:70000/x"}, "DATABASE_URL has the port 70000, and ports end at 65535"),
        (BOTH | {"DATABASE_URL": "mysql://u@h:0/x"}, "DATABASE_URL has the port 0, and ports begin at 1"),
        (
            BOTH | {"DATABASE_URL": "postgresql://u@h/x?sslmod=require"},
            "DATABASE_URL has the option sslmod, which is not taken from a URL. Did you mean sslmode?",
        ),
        (BOTH | {"DATABASE_URL": "mysql://u@h/x?conect_timeout=1"}, "DATABASE_URL has the option conect_timeout"),
        (BOTH | {"DATABASE_URL": "sqlite:///x?mode=ro"}, "DATABASE_URL has the option mode"),
        (BOTH | {"DATABASE_URL": "postgresql://u@h"}, "DATABASE_URL: The URL of the PostgreSQL database names no database"),
        (BOTH | {"DATABASE_URL": "mysql://u@a,b/x"}, "DATABASE_URL names several hosts, and this database takes one. Give it"),
        (BOTH | {"DATABASE_URL": "postgresql://u@[::1]:1,[::2]:70000/x"}, "DATABASE_URL has the port 70000"),
        (BOTH | {"DATABASE_URL": "oracle://h/x"}, "DATABASE_URL: No database is known for URLs that begin with oracle://."),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_by_its_name(place: Place, environment: dict[str, str], reason: str) -> None:
    assert reason in place(**environment).refusal()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"KAFKA_BROKERS": "a:1", "KAFKA_BOOTSTRAP_SERVERS": "b:1"}, ("KAFKA_BROKERS", "KAFKA_BOOTSTRAP_SERVERS")),
        ({"KAFKA_GROUP_ID": "a", "SINK_GROUP_ID": "b"}, ("KAFKA_GROUP_ID", "SINK_GROUP_ID")),
        ({"KAFKA_BROKERS": "a:1"}, ("KAFKA_BROKERS", "DATABASE_URL")),
        ({"DATABASE_URL": "sqlite:///x"}, ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS")),
        ({"DATABASE_TABLE": "x"}, ("DATABASE_TABLE", "DATABASE_URL")),
        (BOTH | {"KAFKA_SASL_USERNAME": "a"}, ("KAFKA_SASL_USERNAME", "KAFKA_SECURITY_PROTOCOL")),
        (BOTH | {"KAFKA_SASL_USERNAME": "a", **TLS}, ("KAFKA_SASL_USERNAME", "KAFKA_SECURITY_PROTOCOL")),
        (BOTH | {"KAFKA_SSL_CA_FILE": "a"}, ("KAFKA_SSL_CA_FILE", "KAFKA_SECURITY_PROTOCOL")),
        (BOTH | {"KAFKA_SSL_KEY_FILE": "a", **TLS}, ("KAFKA_SSL_KEY_FILE", "KAFKA_SSL_CERTIFICATE_FILE")),
        (BOTH | {"KAFKA_SSL_KEY_PASSWORD": "a", **TLS}, ("KAFKA_SSL_KEY_PASSWORD", "KAFKA_SSL_KEY_FILE")),
    ],
)  # fmt: skip
def test_settings_that_contradict_are_both_named(place: Place, environment: dict[str, str], named: tuple[str, str]) -> None:
    problems = place(**environment).refusal().splitlines()
    assert any(all(name in problem for name in named) for problem in problems), problems


MYSQL = {"MYSQL_HOST": "db", "MYSQL_USER": "u@x", "MYSQL_PASSWORD": f"{SECRET}/:@", "MYSQL_DATABASE": "shop"}


def test_a_database_given_by_parts_becomes_its_url(place: Place) -> None:
    place(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9092", MYSQL_PORT="3307", MYSQL_TABLE="sales", **MYSQL)
    settings = load(OrdersSettings)
    url = sa.make_url(settings.database_url.get_secret_value())
    assert (url.drivername, url.host, url.port, url.username, url.password, url.database) == (
        "mysql", "db", 3307, "u@x", f"{SECRET}/:@", "shop",
    )  # fmt: skip
    assert settings.database_table == "sales"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        (BOTH | MYSQL, r"DATABASE_URL and MYSQL_\w+ are both given"),
        ({"KAFKA_BROKERS": "h:1", "MYSQL_HOST": "db"}, "MYSQL_HOST is given and MYSQL_USER and MYSQL_DATABASE are not"),
        ({"KAFKA_BROKERS": "h:1", **MYSQL, "MYSQL_PORT": "many"}, "MYSQL_PORT: must be a valid integer"),
        ({"KAFKA_BROKERS": "h:1", **MYSQL, "MYSQL_TABLE": "a", "DATABASE_TABLE": "b"}, "DATABASE_TABLE and MYSQL_TABLE are both"),
        (MYSQL, r"MYSQL_\w+ is given and KAFKA_BOOTSTRAP_SERVERS is not"),
    ],
)
def test_parts_of_a_database_that_contradict_are_told(place: Place, environment: dict[str, str], reason: str) -> None:
    refusal = place(**environment).refusal()
    assert re.search(reason, refusal)
    assert SECRET not in refusal


def test_both_names_with_one_value_are_no_contradiction(place: Place) -> None:
    place(**BOTH, KAFKA_BROKERS=BOTH["KAFKA_BOOTSTRAP_SERVERS"])
    assert load(OrdersSettings).kafka_bootstrap_servers == "127.0.0.1:9092"


def test_a_command_that_needs_kafka_alone_takes_it_alone(place: Place) -> None:
    place("DATABASE_URL=sqlite:///x\nMY_OWN=1\n", KAFKA_BROKERS="a:1")
    assert load(KafkaSettings, partial=True).kafka_bootstrap_servers == "a:1"


def test_all_problems_are_told_at_once_a_line_each(place: Place) -> None:
    told = place("LANES=x\nNONSENSE=1\n", DATABASE_ULR="x", START="x", KAFKA_BROKERS="a:1").refusal()
    assert told.startswith("5 settings are wrong:\n- ")
    assert len(told.splitlines()) == 6
    for part in ("LANES in .env", "NONSENSE in .env", "DATABASE_ULR", "START", "DATABASE_URL"):
        assert part in told


# -- names ------------------------------------------------------------------------------------------


@st.composite
def mistyped(draw: st.DrawFn) -> str:
    """A name of ours with one letter added, lost, changed, or swapped with the next."""
    name = draw(st.sampled_from([name for name in NAMES if len(name) >= 11]))
    at = draw(st.integers(0, len(name) - 2))
    letter = draw(st.sampled_from(string.ascii_uppercase + "_"))
    how = draw(st.sampled_from(["add", "lose", "change", "swap"]))
    changed = {
        "add": name[:at] + letter + name[at:],
        "lose": name[:at] + name[at + 1 :],
        "change": name[:at] + letter + name[at + 1 :],
        "swap": name[:at] + name[at + 1] + name[at] + name[at + 2 :],
    }[how]
    assume(changed not in NAMES)
    return changed


@given(name=mistyped(), in_file=st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mistyped_name_is_told_wherever_it_stands(place: Place, name: str, in_file: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fresh = Place(monkeypatch, Path.cwd())
        told = (fresh(f"{name}=1\n") if in_file else fresh(**{name: "1"})).refusal()
    assert f"{name}{' in .env' if in_file else ''} is no setting: did you mean " in told


@given(name=st.text(string.ascii_uppercase, min_size=1, max_size=30))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_unknown_name_in_the_file_is_told_with_the_nearest(place: Place, name: str) -> None:
    assume(name not in NAMES)
    with pytest.MonkeyPatch.context() as monkeypatch:
        told = Place(monkeypatch, Path.cwd())(f"{name}=1\n").refusal()
    assert f"{name} in .env is no setting:" in told
    assert any(known in told for known in NAMES)


def test_names_of_others_in_the_environment_are_left_alone(place: Place) -> None:
    place(
        LINES="50",
        COLUMNS="80",
        BYTEWAX_WORKERS_PER_PROCESS="2",
        DATABASE="x",
        KAFKA_HOME="/opt/kafka",
        KAFKA_SSL_KEYSTORE_PASSWORD="x",
    )
    assert load(OrdersSettings) == OrdersSettings()


def test_a_lower_case_name_is_a_mistyped_one(place: Place) -> None:
    assert "database_url is no setting: did you mean DATABASE_URL?" in place(database_url="sqlite:///x").refusal()


def test_bytewax_s_own_variables_have_no_effect_in_the_file(place: Place) -> None:
    assert "BYTEWAX_WORKERS_PER_PROCESS in .env has no effect" in place("BYTEWAX_WORKERS_PER_PROCESS=2\n").refusal()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("this is nothing\n", "line 1 is not NAME=value"),
        ("LANES=1\nSTART\n", "line 2 is not NAME=value"),
        ("LANES=1\nDATABASE_URL=sqlite:///a.sqlite\x00b\n", "line 2 holds U+0000"),
        ("LANES=1\n\nLANES=2\n", "LANES again, with another value"),
    ],
)
def test_a_file_that_can_t_be_meant_is_refused(place: Place, text: str, reason: str) -> None:
    assert reason in place(text).refusal()


# -- secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {"DATABASE_URL": f"nothing:{SECRET}"},
        {"DATABASE_URL": f"postgresql://u:{SECRET}@h:port/x"},
        {"DATABASE_URL": f"oracle://u:{SECRET}@h/x"},
        {"DATABASE_ULR": f"postgresql://u:{SECRET}@h/x"},
        {"KAFKA_SASL_PASSWORD": SECRET},
        {"KAFKA_SSL_KEY_PASSWORD": SECRET},
        {"KAFKA_CONFIG": f'{{"sasl.password": "{SECRET}"'},
        {"KAFKA_CONFIG": f'["{SECRET}"]'},
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_no_refusal_holds_a_secret(place: Place, environment: dict[str, str], in_file: bool) -> None:
    lines = "".join(f"{name}='{value}'\n" for name, value in environment.items())
    told = (place(lines) if in_file else place(**environment)).refusal()
    assert SECRET not in told
    assert SECRET not in place(f"nonsense {lines}").refusal()


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        (
            "DATABASE_URL",
            f"postgresql://u:{SECRET}@h/x?sslpassword={SECRET}&a=b",
            "postgresql://u:***@h/x?a=b&sslpassword=hidden",
        ),
        ("DATABASE_URL", f"u:{SECRET}", HIDDEN),
        ("KAFKA_SASL_PASSWORD", SECRET, HIDDEN),
        ("KAFKA_CONFIG", f'{{"sasl.password": "{SECRET}", "a": 1}}', '{"sasl.password": "(hidden)", "a": 1}'),
        ("KAFKA_CONFIG", SECRET, HIDDEN),
        ("SOURCE_TOPIC", "x", "x"),
        # An unescaped "@" makes a host of a part of the password.
        ("DATABASE_URL", f"postgresql://u:p@{SECRET}@h/x", HIDDEN),
        ("DATABASE_URL", f"postgresql://u:p@{SECRET}/y@h/x", HIDDEN),
        ("DATABASE_URL", f"postgresql://u:p@{SECRET}:y@h/x", HIDDEN),
        ("DATABASE_URL", f"mysql://u:x@h/x?passwd={SECRET}", "mysql://u:***@h/x?passwd=hidden"),
        (
            "DATABASE_URL",
            f"postgresql://u:{SECRET}@a:1,b:2/x",
            "postgresql://u:***@/x?host=a%3A1&host=b%3A2",
        ),
        ("KAFKA_BOOTSTRAP_SERVERS", f"alice:{SECRET}@h:9092", HIDDEN),
        ("SOURCE_TOPIC", f"https://alice:{SECRET}@h/x", HIDDEN),
        ("KAFKA_CONFIG", f'{{"a": {{"b.token": "{SECRET}"}}}}', '{"a": {"b.token": "(hidden)"}}'),
        ("KAFKA_CONFIG", f'{{"ssl.key.pem": "{SECRET}"}}', '{"ssl.key.pem": "(hidden)"}'),
        ("KAFKA_CONFIG", f'{{"x": "http://u:{SECRET}@h"}}', '{"x": "(hidden)"}'),
    ],
)
def test_a_setting_is_shown_without_its_secrets(place: Place, name: str, value: str, seen: str) -> None:
    place(**{name: value})
    field = name.lower()
    assert shown(field, OrdersSettings.model_fields[field], read(OrdersSettings, [])[field].text) == seen


class OwnSettings(OrdersSettings):
    """Of a flow of one's own: a secret in whatever type it was given."""

    lookup_url: str = "http://nowhere"
    lookup_password: str = ""
    lookup_token: SecretStr | None = None
    lookup_servers: str = ""


FORMS = [
    "{}",
    "postgresql://u:{}@h:port/x",
    "postgresql://u:{}@h,i/x",
    "postgresql://u:p@{}@h/x",
    "postgresql://u:p@{}/y@h/x",
    "postgresql://h/x?sslpassword={}",
    "nothing://u:{}@h",
    "u:{}@h:9092",
    '{{"sasl.password": "{}"}}',
    '{{"sasl.password": "{}"',
    "postgresql://u:a phrase {} of words@h/x",
    "Server=h;Pwd=a,{};Database=x",
    "Server=h;Pwd={{a}}}}b,{}}};Database=x",
    "host=h password='it\\'s {}' user=x",
    "https://h/#access_token={}",
    "https://h/?auth={}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_in_every_setting_is_shown_and_told_nowhere(place: Place, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """But for what is plain text by its name and its form (a topic, say): there nobody can know."""
    secret_by_name = re.compile("PASSWORD|(?<!OAUTH_)TOKEN|CLIENT_SECRET|DATABASE_URL|KAFKA_CONFIG")
    secrets = {
        name: f"{SECRET}-{number}"
        for number, name in enumerate(names_of(OwnSettings))
        if form != "{}" or secret_by_name.search(name)
    }
    place(**{name: form.format(secret) for name, secret in secrets.items()})
    with pytest.raises(ConfigError) as refused:
        reference.show_settings(OwnSettings)
    out = capsys.readouterr().out
    assert out.count("\n") == len(OwnSettings.model_fields)
    told = out + str(refused.value)
    assert not [name for name, secret in secrets.items() if secret in told]


def test_what_settings_hold_is_taken_out_of_whatever_is_said_later(place: Place) -> None:
    place(DATABASE_URL="postgresql://walter:wren%40-nest-4711@h/aviary", KAFKA_CONFIG='{"sasl.password": "finch-9981"}')
    read(OrdersSettings, [])
    said = scrub("no login wren@-nest-4711 (wren%40-nest-4711) of walter into aviary with finch-9981")
    assert said == f"no login {HIDDEN} ({HIDDEN}) of walter into aviary with {HIDDEN}"
    place(
        DATABASE_URL="mssql://h/x?odbc_connect=Server%3Dh%3BPWD%3Da%2Cshrike-1%3B",
        KAFKA_CONFIG=r"""{"a": "password='it\\'s shrike-2'", "b": "Pwd={a}}shrike-3}"}""",
        SOURCE_TOPIC="postgresql://u:a phrase of shrike-4@h/x",
    )
    read(OrdersSettings, [])
    assert scrub("a,shrike-1 it's shrike-2 a}shrike-3 a phrase of shrike-4") == " ".join([HIDDEN] * 4)
    place(DATABASE_URL="postgresql://starling:starling@h/starling")
    read(OrdersSettings, [])
    assert scrub("starling: the user's name is no secret") == "starling: the user's name is no secret"


class TypedSettings(OrdersSettings):
    """Secrets in types that hold them, as JSON, and as defaults in the code."""

    raw: SecretBytes = SecretBytes(b"")
    keys: list[SecretStr] = Field([])
    by_shop: dict[str, SecretStr] | None = None
    hooks: list[str] = Field([])
    headers: dict[str, str] = Field({})
    shops: tuple[int, ...] = (1, 2)
    tokens_max: int = 100_000
    required: str
    of_code: SecretStr = SecretStr("dunnock-of-code")
    url_of_code: str = "amqp://u:dunnock-of-url@h/x"
    keys_of_code: list[SecretStr] = Field([SecretStr("dunnock-of-list")])
    headers_of_code: dict[str, str] = Field({"Authorization": "dunnock-of-header", "Accept": "json"})


def test_secrets_of_every_type_and_of_the_code_are_shown_and_told_nowhere(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "RAW": "dunnock-1",
        "KEYS": '["dunnock-2", "dunnock-3"]',
        "BY_SHOP": '{"a": "dunnock-4"}',
        "HOOKS": '["https://dunnock-5@h", "https://h"]',
        "HEADERS": '{"Authorization": "Bearer dunnock-6", "X": "Bearer dunnock-7"}',
        "KAFKA_CONFIG": '{"sasl.kerberos.kinit.cmd": "kinit --password dunnock-8"}',
        "DATABASE_URL": "mssql://h/x?odbc_connect=Server%3Dh%3BPWD%3Ddunnock-9&paswort=dunnock-10",
        "KAFKA_SASL_PASSWORT": "dunnock-11",
        "PGPASSWORD": "dunnock-12",
        "REQUIRED": "x",
        "TOKENS_MAX": "200000",
        "SHOPS": "[3, 4]",
    }
    place(**given)
    for said in (env_file(TypedSettings), markdown(TypedSettings)):
        assert not re.findall('dunnock[^\\s"]*', said)
    with pytest.raises(ConfigError) as refused:  # KAFKA_SASL_PASSWORT
        reference.show_settings(TypedSettings)
    shown = capsys.readouterr().out
    assert not re.findall('dunnock[^\\s"]*', shown + str(refused.value) + scrub(str(given)))
    for line in (
        'HOOKS=["(hidden)", "https://h"]',
        'HEADERS={"Authorization": "(hidden)", "X": "(hidden)"}',
        "TOKENS_MAX=200000",
    ):
        assert f"\n{line}\tenvironment\n" in f"\n{shown}"
    assert '\nHEADERS_OF_CODE={"Authorization": "(hidden)", "Accept": "json"}\tdefault\n' in shown
    assert scrub("dunnock-of-code dunnock-of-url dunnock-of-list 200000") == f"{HIDDEN} {HIDDEN} {HIDDEN} 200000"


def test_lists_and_objects_are_given_as_json(place: Place) -> None:
    class Lists(SqlSettings):
        hooks: list[str] = Field([])
        by_shop: dict[str, SecretStr] | None = None
        shops: tuple[int, ...] = (1, 2)

    place(DATABASE_URL="sqlite:///x", HOOKS='["a", "b"]', BY_SHOP='{"a": "b"}', SHOPS="[3]")
    settings = load(Lists)
    assert (settings.hooks, settings.by_shop, settings.shops) == (["a", "b"], {"a": SecretStr("b")}, (3,))
    place(DATABASE_URL="sqlite:///x", HOOKS="a,b")
    with pytest.raises(ConfigError, match=r'HOOKS is no JSON: .* Such as \["one", "two"\]'):
        load(Lists)


def test_a_secret_that_is_a_word_is_left_in_others(place: Place) -> None:
    place(MYSQL_USER="u", MYSQL_HOST="h", MYSQL_DATABASE="d", MYSQL_PASSWORD="waxwing")
    read(OrdersSettings, [])
    assert scrub("waxwing_progress, waxwing") == f"waxwing_progress, {HIDDEN}"


def test_an_address_that_the_other_settings_have_no_use_for_may_be_left_out(place: Place) -> None:
    place(KAFKA_BOOTSTRAP_SERVERS="k:1", ORDERS_PART="enrich", ENRICHED_TOPIC="enriched")
    assert load(OrdersSettings).orders_part == "enrich"
    place(KAFKA_BOOTSTRAP_SERVERS="k:1")
    assert (
        "KAFKA_BOOTSTRAP_SERVERS is given and DATABASE_URL is not. Give both, or neither for the embedded demonstration; or "
        "another ORDERS_PART (it is all)."
    ) in place.refusal()
    place(KAFKA_BOOTSTRAP_SERVERS="k:1", SENSOR_OUTPUTS="topic , files,topic")
    assert load(SensorsSettings).sensor_outputs == "topic,files"
    place(KAFKA_BOOTSTRAP_SERVERS="k:1", SENSOR_OUTPUTS="topic,table")
    assert "or another SENSOR_OUTPUTS (it is topic,table)." in place.refusal(SensorsSettings)
    place(SENSOR_OUTPUTS="topic,tables")
    assert "SENSOR_OUTPUTS: must be of files, topic, table, with commas between: 'tables' is no output" in place.refusal(
        SensorsSettings
    )
    place(DATABASE_URL="sqlite:///x", ORDERS_PART="enrich", ENRICHED_TOPIC="enriched")
    assert "DATABASE_URL is given and KAFKA_BOOTSTRAP_SERVERS is not." in place.refusal()


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_dollar_and_a_connection_string_in_the_file_are_taken_as_they_are(place: Place, quote: str) -> None:
    secret = "Endpoint=sb://n.example/;SharedAccessKeyName=all;SharedAccessKey=ab+c/d=="
    login = f"KAFKA_SASL_USERNAME={quote}$ConnectionString{quote}\nKAFKA_SASL_PASSWORD={quote}{secret}{quote}\n"
    place(f"{login}KAFKA_SECURITY_PROTOCOL=SASL_SSL\nKAFKA_SASL_MECHANISM=PLAIN\n", **BOTH)
    settings = load(OrdersSettings)
    assert (settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()) == ("$ConnectionString", secret)


def test_where_tokens_come_from_is_shown_and_the_secret_is_not(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place(KAFKA_OAUTH_TOKEN_URL="https://login.example/token", KAFKA_OAUTH_CLIENT_SECRET=SECRET)
    reference.show_settings(OrdersSettings)
    out = capsys.readouterr().out
    assert "https://login.example/token" in out
    assert SECRET not in out


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("TOKEN_URL", "login.example/token", "must be a URL"), ("EXTENSIONS", "a=b, c", "must be name=value")],
)
def test_settings_of_tokens_are_checked(place: Place, name: str, value: str, reason: str) -> None:
    place(**BOTH, **{f"KAFKA_OAUTH_{name}": value})
    assert reason in place.refusal()


# -- what is made from them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "how"),
    [
        (".env.example", OrdersSettings, "env"),
        ("docs/settings.md", OrdersSettings, "markdown"),
        ("docs/settings-sensors.md", SensorsSettings, "markdown"),
    ],
)
def test_the_generated_files_are_up_to_date(file: str, kind: type[Group], how: str) -> None:
    made = env_file(kind) if how == "env" else markdown(kind)
    flow = kind.__module__.rpartition(".")[2]
    assert (ROOT / file).read_text() == made, f"stale: waxwing settings {flow} --format {how} > {file}"


def test_the_example_file_can_be_used_as_it_is_and_with_its_addresses(place: Place) -> None:
    text = env_file(OrdersSettings)
    place(text)
    assert load(OrdersSettings) == OrdersSettings()
    place(text.replace("#KAFKA_BOOTSTRAP", "KAFKA_BOOTSTRAP").replace("#DATABASE_URL", "DATABASE_URL"))
    assert load(OrdersSettings).kafka_bootstrap_servers == "127.0.0.1:9092"


@pytest.mark.parametrize("kind", [OrdersSettings, SensorsSettings])
def test_every_setting_has_a_description_and_stands_in_the_reference(kind: type[Group]) -> None:
    reference = markdown(kind)
    for field, info in kind.model_fields.items():
        assert info.description
        assert f"`{field.upper()}`" in reference


def test_groups_made_in_code_do_not_read_the_environment(place: Place) -> None:
    place("LANES=7\n", LANES="9")
    assert SqlSettings().lanes == 4
