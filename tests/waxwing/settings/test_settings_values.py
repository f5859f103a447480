"""Settings as values: one for each source and target of a flow, by names of its own; and settings that files hold."""

from __future__ import annotations

import os
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import Field, SecretStr

import waxwing
from sinks import Append, MemoryTarget, SqlTarget
from sources.kafka import KafkaSource
from waxwing import Settings, prefixed
from waxwing.cli import places, reference
from waxwing.errors import ConfigError
from waxwing.kafka_client import client_config
from waxwing.secrets import HIDDEN, scrub
from waxwing.settings import KafkaSettings, KafkaTargetSettings, SqlSettings, SqlWindowSettings
from waxwing.settings.checking import load


class Flow(waxwing.Settings):
    """What the payments flow is told."""

    payments: KafkaSettings = prefixed("PAYMENTS")
    shop: SqlSettings
    alarms: SqlSettings = prefixed("ALARMS")
    alarm_above: Decimal = Field(Decimal(1000), description="From which amount on.")


class Given:
    """An environment of a test's own; a name without a value is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch, self.folder = monkeypatch, folder

    def __call__(self, dotenv: str = "", **environment: str) -> None:
        with_names = (
            "KAFKA",
            "DATABASE",
            "MYSQL",
            "SQLSERVER",
            "PAYMENTS",
            "ALARM",
            "UNTIL",
            "LANES",
            "SOURCE",
            "SHOP",
            "A_",
            "B_",
        )
        for name in [name for name in os.environ if name.startswith(with_names)]:
            self._monkeypatch.delenv(name)
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        (self.folder / ".env").write_text(dotenv)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Given:
    monkeypatch.chdir(tmp_path)
    there = Given(monkeypatch, tmp_path)
    there()
    return there


ALL = {
    "PAYMENTS_KAFKA_BOOTSTRAP_SERVERS": "a:1",
    "PAYMENTS_SOURCE_TOPIC": "payments",
    "DATABASE_URL": "sqlite:///shop.sqlite",
    "ALARMS_DATABASE_URL": "sqlite:///alarms.sqlite",
}


def refusal(kind: type[Settings] = Flow) -> str:
    with pytest.raises(ConfigError) as refused:
        load(kind)
    return str(refused.value)


def test_each_value_reads_its_own_names_and_falls_back_to_the_plain_ones_but_for_addresses(given: Given) -> None:
    given(**ALL, UNTIL="end", LANES="2", ALARMS_LANES="3", ALARM_ABOVE="12.50", KAFKA_SASL_USERNAME="u", START="latest",
          KAFKA_SECURITY_PROTOCOL="SASL_SSL", SOURCE_TOPIC="another", DATABASE_TABLE="sales")  # fmt: skip
    settings = load(Flow)
    assert settings.payments.kafka_bootstrap_servers == "a:1"
    assert (settings.payments.source_topic, settings.payments.until, settings.payments.start) == ("payments", "end", "latest")
    assert (settings.payments.kafka_sasl_username, settings.payments.lanes) == ("u", 2)
    assert settings.shop.database_url.get_secret_value() == "sqlite:///shop.sqlite"
    assert settings.alarms.database_url.get_secret_value() == "sqlite:///alarms.sqlite"
    assert (settings.shop.database_table, settings.alarms.database_table) == ("sales", "")
    assert (settings.shop.lanes, settings.alarms.lanes, settings.alarm_above) == (2, 3, Decimal("12.50"))
    again = pickle.loads(pickle.dumps(settings.alarms))
    assert again == settings.alarms
    assert again.name_of("database_url") == "ALARMS_DATABASE_URL"


@pytest.mark.parametrize("plain", [
    {"DATABASE_URL": "sqlite:///x"},
    {"DATABASE_URL_FILE": "/nowhere"},
    {"MYSQL_HOST": "h", "MYSQL_USER": "u", "MYSQL_DATABASE": "d", "MYSQL_PORT": "3307", "MYSQL_PASSWORD": "p"},
    {"SQLSERVER_HOST": "h", "SQLSERVER_USER": "u", "SQLSERVER_DB": "d", "SQLSERVER_ENCRYPT": "no"},
    {"SOURCE_TOPIC": "t"},
    {"DATABASE_TABLE": "t"},
])  # fmt: skip
def test_an_address_is_never_taken_from_the_plain_name(given: Given, plain: dict[str, str]) -> None:
    class Only(Settings):
        a: KafkaSettings = prefixed("A")
        b: SqlSettings = prefixed("B")

    given(**plain)
    assert load(Only) == Only(a=KafkaSettings().given("A_", {}), b=SqlSettings().given("B_", {}))


def test_topics_of_one_cluster_need_the_brokers_once(given: Given) -> None:
    class Two(Settings):
        a: KafkaSettings = prefixed("A")
        b: KafkaSettings = prefixed("B")

    given(KAFKA_BOOTSTRAP_SERVERS="k:1", A_SOURCE_TOPIC="x", B_SOURCE_TOPIC="y", B_KAFKA_BOOTSTRAP_SERVERS="k:2")
    settings = load(Two)
    assert [(one.kafka_bootstrap_servers, one.source_topic) for one in (settings.a, settings.b)] == [("k:1", "x"), ("k:2", "y")]
    given(KAFKA_BROKERS="k:1, k:2", A_SOURCE_TOPIC="x", B_SOURCE_TOPIC="x", B_KAFKA_BROKERS="k:2,k:1")
    assert "A_SOURCE_TOPIC and B_SOURCE_TOPIC are the same topic of one cluster, for a and b" in refusal(Two)
    given(KAFKA_BROKERS="k:1", A_SOURCE_TOPIC="w,x", B_SOURCE_TOPIC="x, y")
    assert "A_SOURCE_TOPIC and B_SOURCE_TOPIC are the same topic of one cluster, for a and b" in refusal(Two)
    given(KAFKA_BROKERS="k:1", A_SOURCE_TOPIC_PATTERN="x.*", B_SOURCE_TOPIC_PATTERN="x.*")
    assert "A_SOURCE_TOPIC_PATTERN and B_SOURCE_TOPIC_PATTERN are the same pattern of topics of one cluster" in refusal(Two)
    given(KAFKA_BROKERS="k:1", A_SOURCE_TOPIC="x", B_SOURCE_TOPIC="x", B_KAFKA_BROKERS="k:2")
    assert load(Two).b.source_topic == "x"


def test_two_values_that_read_one_address_are_an_error_that_names_both(given: Given) -> None:
    class Plain(Settings):
        shop: SqlSettings
        totals: SqlWindowSettings

    assert "DATABASE_URL is read by two values, shop and totals: take one for both, or give one a prefix" in refusal(Plain)
    given(**{**ALL, "ALARMS_DATABASE_URL": ALL["DATABASE_URL"]})
    assert "DATABASE_URL and ALARMS_DATABASE_URL are the same database, for shop and alarms" in refusal()
    given(**{**ALL, "ALARMS_DATABASE_URL": ALL["DATABASE_URL"]}, DATABASE_TABLE="t", ALARMS_DATABASE_TABLE="t")
    assert "DATABASE_URL and ALARMS_DATABASE_URL are the same database" in refusal()
    given(**{**ALL, "ALARMS_DATABASE_URL": ALL["DATABASE_URL"]}, ALARMS_DATABASE_TABLE="alarms")
    assert load(Flow).alarms.database_table == "alarms"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ALARMS_DATABASE_URL": ""}, "PAYMENTS_KAFKA_BOOTSTRAP_SERVERS is given and ALARMS_DATABASE_URL is not. Give all"),
        ({"ALARMS_DATABASE_ULR": "x"}, "ALARMS_DATABASE_ULR is no setting: did you mean ALARMS_DATABASE_URL?"),
        ({"PAYMENTS_KAFKA_BROKRS": "x"}, "PAYMENTS_KAFKA_BROKRS is no setting: did you mean PAYMENTS_KAFKA_BROKERS?"),
        ({"ALARM_ABOVE": "much"}, "ALARM_ABOVE: must be a valid decimal (it is 'much')."),
        ({"ALARMS_LANES": "0"}, "ALARMS_LANES: must be greater than or equal to 1 (it is '0')."),
        ({"LANES": "0"}, "A setting is wrong: LANES: must be greater than or equal to 1 (it is '0')."),
        ({"PAYMENTS_KAFKA_CONFIG": "{"}, "PAYMENTS_KAFKA_CONFIG is no JSON"),
        ({"PAYMENTS_KAFKA_SASL_USERNAME": "u"}, "PAYMENTS_KAFKA_SASL_USERNAME is given, but PAYMENTS_KAFKA_SECURITY_PROTOCOL is"),
        ({"PAYMENTS_KAFKA_SASL_USERNAME": "u", "KAFKA_SECURITY_PROTOCOL": "SSL"}, "but KAFKA_SECURITY_PROTOCOL is SSL: set SASL"),
        ({"PAYMENTS_KAFKA_BROKERS": "b:1"}, "PAYMENTS_KAFKA_BOOTSTRAP_SERVERS and PAYMENTS_KAFKA_BROKERS are two names"),
        ({"ALARMS_MYSQL_HOST": "h"}, "ALARMS_DATABASE_URL and ALARMS_MYSQL_HOST are both given"),
        ({"ALARMS_DATABASE_URL": "", "ALARMS_MYSQL_HOST": "h"}, "ALARMS_MYSQL_HOST is given and ALARMS_MYSQL_USER and"),
        ({"ALARMS_DATABASE_URL": "oracle://h/x"}, "ALARMS_DATABASE_URL: No database is known for URLs that begin with oracle://."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_prefix(given: Given, changes: dict[str, str], told: str) -> None:
    given(**{**ALL, **changes})
    assert told in refusal()


def test_names_of_values_in_the_file_are_as_strict_as_the_plain_ones(given: Given) -> None:
    given("ALARMS_DATABASE_TABEL=x\nLANES=2\nSOURCE_TOPIC=x\n", **ALL)
    told = refusal()
    assert "ALARMS_DATABASE_TABEL in .env is no setting: did you mean ALARMS_DATABASE_TABLE?" in told
    assert "SOURCE_TOPIC in .env is no setting: the nearest is PAYMENTS_SOURCE_TOPIC." in told
    given("ALARMS_LANES=2\n", **ALL, LANES="3")
    assert (load(Flow).alarms.lanes, load(Flow).shop.lanes) == (2, 3)


def test_messages_of_sources_and_targets_name_the_value_s_settings(given: Given) -> None:
    given(**{**ALL, "PAYMENTS_SOURCE_TOPIC": ""}, ALARMS_LANES="1")
    settings = load(Flow)
    with pytest.raises(ConfigError, match=r"^PAYMENTS_SOURCE_TOPIC is not given"):
        KafkaSource(settings.payments)
    target = SqlTarget(settings.alarms, sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer)), Append())
    assert target.place.url_setting == "ALARMS_DATABASE_URL"
    given(**ALL, KAFKA_SECURITY_PROTOCOL="SASL_SSL", PAYMENTS_KAFKA_SASL_MECHANISM="PLAIN")
    with pytest.raises(ConfigError, match=r"PAYMENTS_KAFKA_SASL_MECHANISM PLAIN needs PAYMENTS_KAFKA_SASL_USERNAME and PAYMENTS"):
        client_config(load(Flow).payments)
    given(**{**ALL, "ALARMS_DATABASE_URL": ""}, ALARMS_MYSQL_HOST="h", ALARMS_MYSQL_USER="u", ALARMS_MYSQL_DATABASE="d")
    alarms = load(Flow).alarms
    assert alarms.database_url.get_secret_value() == "mysql://u@h/d"
    assert alarms.name_of("database_url") == "the settings ALARMS_MYSQL_..."
    other = alarms.model_copy(update={"database_url": SecretStr("sqlite:///other")})
    assert other.given_by("database_url") == ""


def test_a_flow_has_one_name_whatever_the_prefixes_of_its_values(given: Given) -> None:
    given(**ALL, FLOW_NAME="shop-eu")
    settings = load(Flow)
    assert {settings.payments.flow_name, settings.shop.flow_name, settings.alarms.flow_name} == {"shop-eu"}
    assert reference.env_file(Flow).count("FLOW_NAME=") == 1
    given("PAYMENTS_FLOW_NAME=x\n", **ALL)
    assert "PAYMENTS_FLOW_NAME in .env is no setting: the nearest is" in refusal()
    source = KafkaSource(KafkaSettings(kafka_bootstrap_servers="a:1", source_topic="t", flow_name="a"))
    source.feed("graph", target := MemoryTarget())
    target.bind("b", "step")
    with pytest.raises(ConfigError, match="A source whose FLOW_NAME is 'a' feeds targets of the flow 'b'"):
        source.build_part("b.in", "00", None)


def test_values_are_made_in_code_without_the_environment(given: Given) -> None:
    given(**ALL)
    made = Flow(alarm_above=Decimal(5), shop=SqlSettings(database_url=SecretStr("sqlite:///x")))
    assert (made.payments, made.alarms, made.alarm_above) == (KafkaSettings(), SqlSettings(), Decimal(5))
    assert made.shop.database_url.get_secret_value() == "sqlite:///x"
    with pytest.raises(TypeError, match=r"Wrong\.shop: a value has no default"):

        class Wrong(Settings):
            shop: SqlSettings = SqlSettings(lanes=1)

    with pytest.raises(TypeError, match=r"Either\.shop: a value is one group of settings, neither optional nor several"):

        class Either(Settings):
            shop: SqlSettings | None = None

    with pytest.raises(ValueError, match="made of capitals"):
        prefixed("alarms")


def test_any_number_of_values_in_one_process(given: Given) -> None:
    many: dict[str, Any] = {f"place_{n}": (SqlSettings, prefixed(f"PLACE_{n}")) for n in range(20)}
    import pydantic

    kind = pydantic.create_model("Many", __base__=Settings, **many)
    given(**{f"PLACE_{n}_DATABASE_URL": f"sqlite:///{n}.sqlite" for n in range(20)}, RETRY_MAX_S="7")
    for number, (_, value) in enumerate(load(kind)):
        assert (value.database_url.get_secret_value(), value.retry_max_s) == (f"sqlite:///{number}.sqlite", 7)


# -- what is made from them ------------------------------------------------------------------------


def test_settings_of_values_are_listed_and_described_by_their_names(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    given(
        **{**ALL, "ALARMS_DATABASE_URL": ""},
        ALARMS_DATABASE_URL_FILE=given.file("u", "postgresql://u:pw-wheatear@h/x\n"),
        UNTIL="end",
    )
    reference.show_settings(Flow)
    shown = capsys.readouterr().out.splitlines()
    for line in (
        "PAYMENTS_UNTIL=end\tenvironment: UNTIL",
        "PAYMENTS_SOURCE_TOPIC=payments\tenvironment",
        "ALARMS_DATABASE_URL=postgresql://u:***@h/x\tenvironment: ALARMS_DATABASE_URL_FILE",
        "ALARM_ABOVE=1000\tdefault",
        "LANES=4\tdefault",
    ):
        assert line in shown
    page, example = reference.markdown(Flow), reference.env_file(Flow)
    assert "| `ALARM_ABOVE` | `1000` |  | From which amount on. |" in page
    assert "\n## alarms: Where rows go\n" in page
    assert "| `ALARMS_DATABASE_URL`<br>or `ALARMS_DATABASE_URL_FILE` |" in page
    assert "\n#PAYMENTS_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092\n" in example
    given(example)
    assert load(Flow).alarm_above == 1000


def test_commands_find_the_databases_of_values(given: Given) -> None:
    (given.folder / "of_values.py").write_text(
        "import waxwing\nfrom waxwing.settings import *\n"
        "class Own(KafkaSettings): ...\n"
        "class Mine(waxwing.Settings):\n"
        "    a: Own = waxwing.prefixed('A')\n    b: SqlWindowSettings = waxwing.prefixed('B')\n    shop: SqlSettings\n"
    )
    given(B_DATABASE_URL="sqlite:///b.sqlite", DATABASE_URL_FILE=given.file("u", "sqlite:///shop.sqlite"), B_LOCK="1",
          A_KAFKA_BROKERS="k:1", A_SOURCE_TOPIC="t")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(given.folder)
        found = [(str(place.place), name) for place, name in places.databases("of_values")]
        assert places.positions_settings("of_values").a.source_topic == "t"  # type: ignore[attr-defined]  # made of the flow's class
    assert found == [("sqlite at shop.sqlite", "DATABASE_URL_FILE"), ("sqlite at b.sqlite", "B_DATABASE_URL")]
    unknown = [(str(place.place), name) for place, name in places.databases("nobody_knows")]
    assert unknown == found


# -- from files ------------------------------------------------------------------------------------


def test_secrets_and_urls_come_from_files_as_docker_and_kubernetes_give_them(given: Given) -> None:
    url = "postgresql://u:redstart-4711@h/x"
    given(
        f"PAYMENTS_KAFKA_SASL_PASSWORD_FILE={given.file('p', 'siskin-4712' + chr(13) + chr(10))}\n",
        **{**ALL, "ALARMS_DATABASE_URL": ""},
        ALARMS_DATABASE_URL_FILE=given.file("url", f"{url}\n"),
        KAFKA_SASL_USERNAME="u",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_CONFIG_FILE=given.file("config", '{"sasl.oauthbearer.client.secret": "bunting-4713"}'),
    )
    settings = load(Flow)
    assert settings.alarms.database_url.get_secret_value() == url
    assert settings.payments.kafka_sasl_password.get_secret_value() == "siskin-4712"
    assert settings.payments.kafka_config == {"sasl.oauthbearer.client.secret": "bunting-4713"}
    assert settings.alarms.name_of("database_url") == "ALARMS_DATABASE_URL_FILE"
    assert scrub("redstart-4711 siskin-4712 bunting-4713") == " ".join([HIDDEN] * 3)


def test_a_file_that_can_t_be_used_is_named_and_never_shown(given: Given) -> None:
    (given.folder / "binary").write_bytes(b"\xff\xfe-wagtail")
    for path, why in (
        ("/nowhere/wagtail-1", "No such file or directory"),
        ("wagtail-secret-itself", "No such file or directory"),
        (str(given.folder), "Is a directory"),
        (given.file("empty", "\n"), "it is empty"),
        (str(given.folder / "binary"), "it is not UTF-8"),
    ):
        given(**{**ALL, "DATABASE_URL": ""}, DATABASE_URL_FILE=path)
        told = refusal()
        assert told.startswith(f"A setting is wrong: DATABASE_URL_FILE names a file that can't be used: {why}.")
        assert "wagtail" not in told
    given(**ALL, DATABASE_URL_FILE=given.file("url", "sqlite:///wagtail"))
    assert "DATABASE_URL and DATABASE_URL_FILE are both given: give one." in refusal()
    given(**ALL, KAFKA_SASL_PASSWORD_FLIE=given.file("p", "x"))
    assert "KAFKA_SASL_PASSWORD_FLIE is no setting: did you mean KAFKA_SASL_PASSWORD_FILE?" in refusal()


class Through(waxwing.Settings):
    """From a topic into another."""

    kafka: KafkaSettings
    out: KafkaTargetSettings


def test_values_share_where_their_tokens_come_from(given: Given) -> None:
    """Its name says URL, and it is not where records lie."""
    given(KAFKA_BOOTSTRAP_SERVERS="b:9092", SOURCE_TOPIC="t", KAFKA_OAUTH_TOKEN_URL="https://login.example/token")
    settings = load(Through)
    assert settings.kafka.kafka_oauth_token_url == settings.out.kafka_oauth_token_url == "https://login.example/token"
