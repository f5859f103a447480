"""Logins as clouds have them: OAUTHBEARER with tokens of a server of ours, and one user for all with a connection string."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bytewax.dataflow import Dataflow
from confluent_kafka import Producer
from pydantic import SecretStr

from sinks import sink
from sinks.kafka import KafkaTarget, topics
from sources import read
from sources.kafka import KafkaSource
from sources.kafka.broker import Broker
from tests.conformance.targets.kinds import ITEMS, Item, read_committed, table
from tests.conformance.targets.test_targets import play
from tests.servers import Kafka
from tests.servers.kafka import Issuer, TokenServer
from tests.servers.process import free_ports
from waxwing.errors import ConfigError, TransientError, WaxwingError
from waxwing.kafka_client import client_config
from waxwing.operators import parse
from waxwing.settings import KafkaSettings, KafkaTargetSettings

ITEM = {"id": 1, "name": "n1", "amount": "1.00"}


class Both(KafkaSettings, KafkaTargetSettings):
    """A flow from a topic into another."""


@pytest.fixture
def tokens(kafka: Kafka) -> Iterator[TokenServer]:
    with TokenServer(kafka.issuer) as server:
        yield server


def by_plain(kafka: Kafka, **more: Any) -> Both:
    given: dict[str, Any] = {
        "kafka_bootstrap_servers": kafka.bootstrap("SASL_SSL"),
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_ca_file": str(kafka.certificates.ca),
        "kafka_sasl_mechanism": "PLAIN",
        "kafka_sasl_username": "$ConnectionString",
        "kafka_sasl_password": SecretStr(kafka.connection_string),
        "source_topic": "raw",
        "until": "end",
        "lanes": 1,
        "kafka_away_max_s": 2.0,
        "retry_max_s": 2.0,
    }
    return Both(**(given | more))


def by_token(kafka: Kafka, **more: Any) -> Both:
    given: dict[str, Any] = {
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_sasl_username": "",
        "kafka_sasl_password": SecretStr(""),
        "kafka_oauth_token_url": "http://127.0.0.1:1/token",
        "kafka_oauth_client_id": TokenServer.client_id,
        "kafka_oauth_client_secret": SecretStr(TokenServer.client_secret),
        "kafka_oauth_scope": "api://kafka/.default",
        "kafka_oauth_extensions": "logicalCluster=lkc-1,identityPoolId=pool-1",
    }
    return by_plain(kafka, **(given | more))


def through(kafka: Kafka, settings: Both, flow: str, out: str) -> list[int]:
    """A flow reads a topic and fills another."""
    topic = kafka.new_topic()
    producer = Producer(kafka.client())
    producer.produce(topic, msgspec.json.encode(ITEM))
    producer.flush(30)
    given = settings.model_copy(update={"source_topic": topic})
    graph = Dataflow(flow)
    items = parse("parse", read("in", graph, KafkaSource(given)), Item)
    sink("out", items, KafkaTarget(given, out, table("items", ITEMS), key="name"))
    play(graph)
    return [msgspec.json.decode(value)["id"] for _, value, _ in read_committed(kafka, out)]


def test_a_flow_reads_and_writes_with_tokens(kafka: Kafka, tokens: TokenServer) -> None:
    settings = by_token(kafka, kafka_oauth_token_url=tokens.url)
    assert through(kafka, settings, "by-token", "by-token") == [1]
    assert {"grant_type": ["client_credentials"], "scope": ["api://kafka/.default"]} in tokens.asked


def test_a_flow_reads_and_writes_with_a_connection_string(kafka: Kafka) -> None:
    assert through(kafka, by_plain(kafka), "by-string", "by-string") == [1]


def ends(settings: Both, *, writing: bool) -> WaxwingError:
    """What the start of a source, or that of a target, ends with."""
    target = KafkaTarget(settings, "never", table("items", ITEMS))
    with pytest.raises(WaxwingError) as caught:
        target.prepare() if writing else Broker(settings, threading.Event()).topics(["raw"])
    return caught.value


@pytest.mark.parametrize("writing", [False, True])
def test_a_client_whom_the_server_refuses_ends_with_78_and_no_secret_is_said(
    kafka: Kafka, tokens: TokenServer, caplog: pytest.LogCaptureFixture, *, writing: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = SecretStr("wrong-secret-0815")
    error = ends(by_token(kafka, kafka_oauth_token_url=tokens.url, kafka_oauth_client_secret=wrong), writing=writing)
    assert isinstance(error, ConfigError)
    assert "invalid_client" in error.message
    assert "KAFKA_OAUTH_CLIENT_SECRET" in str(error)
    assert "0815" not in str(error) + caplog.text


@pytest.mark.parametrize("writing", [False, True])
def test_a_token_that_the_broker_does_not_believe_ends_with_78(kafka: Kafka, tmp_path: Path, *, writing: bool) -> None:
    with TokenServer(Issuer(tmp_path)) as stranger:
        error = ends(by_token(kafka, kafka_oauth_token_url=stranger.url), writing=writing)
    assert isinstance(error, ConfigError)
    assert "does not believe the token" in str(error)


@pytest.mark.parametrize("writing", [False, True])
def test_a_token_server_that_is_down_is_waited_for_and_then_ends_with_75(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, *, writing: bool
) -> None:
    monkeypatch.setattr(topics, "ANSWER_S", 2.0)
    error = ends(by_token(kafka, kafka_oauth_token_url=f"http://127.0.0.1:{free_ports(1)[0]}/token"), writing=writing)
    assert isinstance(error, TransientError)
    assert "Failed to connect to 127.0.0.1" in str(error)


@pytest.mark.parametrize("lacking", ["token_url", "client_id", "client_secret"])
def test_what_a_token_needs_is_named(kafka: Kafka, lacking: str) -> None:
    settings = by_token(kafka, **{f"kafka_oauth_{lacking}": SecretStr("") if "secret" in lacking else ""})
    with pytest.raises(ConfigError, match=f"OAUTHBEARER needs KAFKA_OAUTH_{lacking.upper()}"):
        client_config(settings)
    other_way = {"sasl.oauthbearer.metadata.authentication.type": "azure_imds"}
    assert client_config(settings.model_copy(update={"kafka_config": other_way}))["sasl.oauthbearer.method"] == "oidc"
