"""Settings -> librdkafka's configuration, and librdkafka's errors -> ours. For sources, targets and commands alike."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from waxwing.errors import ConfigError
from waxwing.settings import KafkaClientSettings

C = TypeVar("C")

_STORED = "positions are stored with the results, never by the group"
# Keys that KAFKA_CONFIG may not set, and why.
REFUSED: Mapping[str, str] = {
    "bootstrap.servers": "KAFKA_BOOTSTRAP_SERVERS sets it",
    "metadata.broker.list": "KAFKA_BOOTSTRAP_SERVERS sets it",
    "security.protocol": "KAFKA_SECURITY_PROTOCOL sets it",
    "group.id": "KAFKA_GROUP_ID sets it",
    "group.instance.id": "lanes are assigned, they never join the group",
    "enable.auto.commit": _STORED,
    "auto.commit.enable": _STORED,
    "enable.auto.offset.store": _STORED,
    "auto.offset.reset": "a position that the log no longer holds must be an error (ON_DATA_LOSS decides what follows)",
    "isolation.level": "records of aborted transactions must not be read",
    "enable.partition.eof": "positions move over transaction markers by it",
    "transactional.id": "Waxwing names the writers of each start",
    "enable.idempotence": "a message that is sent again must not be there twice",
    "acks": "a message counts once all copies in sync have it",
}
_FILES = {
    "ssl.ca.location": "kafka_ssl_ca_file",
    "ssl.certificate.location": "kafka_ssl_certificate_file",
    "ssl.key.location": "kafka_ssl_key_file",
}
_AUTHORIZATION = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}
# What librdkafka says where it gets no token, whatever the cause; and the codes of RFC 6749 (5.2) by which a server refuses one.
_UNAUTHORIZED = "Failed to acquire SASL OAUTHBEARER token: "
_CLIENT_REFUSED = re.compile(r'"error"\s*:\s*"(invalid_\w+|unauthorized_client|unsupported_grant_type)"')
_RIGHTS_TO_WRITE = (
    "Give the user Write and Describe on the topic, on TOPIC.dead_letters and on the topics that begin with waxwing. (prefixed), "
    "Read on these, and Create where they are not there."
)


def client_config(settings: KafkaClientSettings) -> dict[str, Any]:
    """What every client of these brokers is configured with: addresses, security, KAFKA_CONFIG on top.

    Raises:
        ConfigError: KAFKA_CONFIG sets a key that exactness rests on, or two settings contradict.
    """
    for key, why in REFUSED.items():
        if key in settings.kafka_config:
            raise _error(settings, f"KAFKA_CONFIG may not set {key!r}: {why}.", hint="Take it out.", key=key)
    if not settings.kafka_bootstrap_servers:
        raise _error(settings, "KAFKA_BOOTSTRAP_SERVERS is empty.", hint="Set it to host:port of one or more brokers.")
    protocol = settings.kafka_security_protocol
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": protocol,
        "client.id": "waxwing",
        # librdkafka would write to stderr itself; what matters comes by `error_cb` as well.
        "log_level": 0,
        **_sasl(settings),
    }
    if "SSL" in protocol:
        config |= {key: path for key, name in _FILES.items() if (path := getattr(settings, name))}
        if password := settings.kafka_ssl_key_password.get_secret_value():
            config["ssl.key.password"] = password
    config |= settings.kafka_config
    if settings.kafka_config.keys() & {"debug", "log_level"}:
        logger = logging.getLogger("waxwing.librdkafka")
        logger.setLevel(logging.DEBUG)
        config = {"log_level": 7, **settings.kafka_config, **config, "logger": logger}
    return config


def _sasl(settings: KafkaClientSettings) -> dict[str, str]:
    mechanism, extra = settings.kafka_sasl_mechanism, settings.kafka_config
    wanted = "SASL" in settings.kafka_security_protocol
    if mechanism and not wanted:
        raise _error(
            settings,
            f"KAFKA_SASL_MECHANISM is {mechanism}, but KAFKA_SECURITY_PROTOCOL is {settings.kafka_security_protocol}.",
            hint="Set KAFKA_SECURITY_PROTOCOL to SASL_SSL or SASL_PLAINTEXT.",
        )
    if not wanted or not mechanism:
        if wanted and not extra.keys() & {"sasl.mechanism", "sasl.mechanisms"}:
            raise _error(
                settings,
                f"KAFKA_SECURITY_PROTOCOL is {settings.kafka_security_protocol}, but KAFKA_SASL_MECHANISM is empty.",
                hint="Set it to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.",
            )
        return {}
    if mechanism == "OAUTHBEARER":
        return _oauth(settings)
    password = settings.kafka_sasl_password.get_secret_value()
    if not settings.kafka_sasl_username or not password:
        raise _error(
            settings, f"KAFKA_SASL_MECHANISM {mechanism} needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD.", hint="Set both."
        )
    return {"sasl.mechanism": mechanism, "sasl.username": settings.kafka_sasl_username, "sasl.password": password}


def _oauth(settings: KafkaClientSettings) -> dict[str, str]:
    """A token by OIDC, which librdkafka gets and renews by itself."""
    config = {
        "sasl.oauthbearer.token.endpoint.url": settings.kafka_oauth_token_url,
        "sasl.oauthbearer.client.id": settings.kafka_oauth_client_id,
        "sasl.oauthbearer.client.secret": settings.kafka_oauth_client_secret.get_secret_value(),
        "sasl.oauthbearer.scope": settings.kafka_oauth_scope,
        "sasl.oauthbearer.extensions": settings.kafka_oauth_extensions,
    }
    needed = dict(zip(config, ("KAFKA_OAUTH_TOKEN_URL", "KAFKA_OAUTH_CLIENT_ID", "KAFKA_OAUTH_CLIENT_SECRET"), strict=False))
    lacking = [name for key, name in needed.items() if not config[key]]
    # There are other ways to a token (a managed identity, a signed assertion), which KAFKA_CONFIG gives.
    if lacking and not any(key.startswith("sasl.oauthbearer.") for key in settings.kafka_config):
        raise _error(settings, f"KAFKA_SASL_MECHANISM OAUTHBEARER needs {' and '.join(lacking)}.", hint="Set what is missing.")
    given = {key: text for key, text in config.items() if text}
    return {"sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc", **given}


def make_client(kind: Callable[[dict[str, Any]], C], config: Mapping[str, Any], settings: KafkaClientSettings) -> C:
    """A client of this kind (Consumer, Producer, AdminClient).

    Raises:
        ConfigError: librdkafka refuses the configuration, or a file is missing.
    """
    for key, name in _FILES.items():
        path = getattr(settings, name)
        if config.get(key) == path and path and not Path(path).is_file():
            raise _error(
                settings, f"{name.upper()}: there is no file {path!r}.", hint="Set it to a PEM file that this process can read."
            )
    try:
        return kind(dict(config))
    except KafkaException as error:
        reason = error.args[0].str()
    except (TypeError, ValueError) as error:
        reason = str(error)
    # librdkafka quotes values of numbers and enumerations, never those of passwords.
    raise _error(settings, f"Kafka's client refuses its configuration: {reason}.", hint=_blame(reason))


def _blame(reason: str) -> str:
    for key, name in {**_FILES, "ssl.key.password": "kafka_ssl_key_password"}.items():
        if key in reason:
            return f"Look at {name.upper()}."
    if "SSL" in reason or "ssl" in reason:
        return "Look at KAFKA_SSL_CA_FILE, KAFKA_SSL_CERTIFICATE_FILE, KAFKA_SSL_KEY_FILE and KAFKA_SSL_KEY_PASSWORD."
    return "Look at KAFKA_CONFIG and KAFKA_BOOTSTRAP_SERVERS."


def refusal(error: KafkaError, settings: KafkaClientSettings, *, write: bool = False) -> ConfigError | None:
    """The ConfigError that an error of librdkafka means; None: it may pass by itself. `write`: a topic was to be written."""
    code, reason = error.code(), reason_of(error)
    if code == KafkaError._AUTHENTICATION:
        if reason.startswith(_UNAUTHORIZED):
            # A server of tokens that is away comes back; and a flow that runs has a token that is good for a while yet.
            if not _CLIENT_REFUSED.search(reason):
                return None
            hint = "Check KAFKA_OAUTH_TOKEN_URL, KAFKA_OAUTH_CLIENT_ID, KAFKA_OAUTH_CLIENT_SECRET and KAFKA_OAUTH_SCOPE."
            return _error(settings, f"No token is given for Kafka: {reason.removeprefix(_UNAUTHORIZED)}.", hint=hint)
        if "nsupported" in reason:
            hint = f"Set KAFKA_SASL_MECHANISM (now {settings.kafka_sasl_mechanism}) to one that the broker offers."
        elif settings.kafka_sasl_mechanism == "OAUTHBEARER":
            hint = (
                "The broker does not believe the token: is it to take those of KAFKA_OAUTH_TOKEN_URL? "
                "Check KAFKA_OAUTH_CLIENT_ID, KAFKA_OAUTH_SCOPE and KAFKA_OAUTH_EXTENSIONS."
            )
        else:
            hint = (
                f"Check KAFKA_SASL_USERNAME (now {settings.kafka_sasl_username!r}), KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM."
            )
        return _error(settings, f"Kafka refuses the login: {reason}.", hint=hint)
    if code == KafkaError._SSL:
        if "verif" in reason:
            hint = (
                "Set KAFKA_SSL_CA_FILE to the authority that signed the broker's certificate, and use the name it was made for."
            )
        else:
            hint = "Check KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_FILE, KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE."
        return _error(settings, f"TLS with Kafka fails: {reason}.", hint=hint)
    if code in _AUTHORIZATION:
        return _error(
            settings,
            f"Kafka does not allow it: {reason}.",
            hint=_RIGHTS_TO_WRITE
            if write
            else "Give the user Read and Describe on the topic and Read on the group (KAFKA_GROUP_ID).",
        )
    return None


def _error(settings: KafkaClientSettings, message: str, hint: str, **context: str) -> ConfigError:
    return ConfigError(settings.told(message), hint=settings.told(hint), **context)


def reason_of(error: KafkaError) -> str:
    """The error's text, without librdkafka's name for the connection and without how long it took."""
    return re.sub(r"^(\w+://)?\S+/(bootstrap|\d+): ", "", error.str()).split(" (after ")[0].rstrip(". ")
