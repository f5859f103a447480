"""Apache Kafka, one node in KRaft mode, with every kind of listener Waxwing can speak to."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import count

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec
from confluent_kafka.error import KafkaError

from tests.servers.kafka.certificates import KEY_PASSWORD, Certificates
from tests.servers.kafka.distribution import jars, java
from tests.servers.kafka.tokens import AUDIENCE, ISSUER, Issuer, TokenServer
from tests.servers.process import Server, free_ports, listening, until

__all__ = ["KEY_PASSWORD", "LISTENERS", "MECHANISMS", "Certificates", "Issuer", "Kafka", "TokenServer"]

# SSL demands a client certificate.
LISTENERS = ("PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL", "SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_CLUSTER_ID = "d2F4d2luZy10ZXN0cy0wMQ"
_ADMIN_TIMEOUT_S, _ADMIN_UNUSED_MAX_S = 60.0, 60.0
_ALLOWED = "org.apache.kafka.sasl.oauthbearer.allowed.urls"
_numbers = count(1)


class Kafka(Server):
    """A broker. `bootstrap()` is its plain listener; `client()` are librdkafka's settings for any of them."""

    name = "kafka"
    sasl_user = "alice"
    sasl_password = "alice-secret"
    # As Azure Event Hubs has it: the same user for all, who shows who it is by the password. On SASL_SSL, by PLAIN.
    connection_string = "Endpoint=sb://waxwing.test/;SharedAccessKeyName=all;SharedAccessKey=d2Fy+bGVy/NDcxMQ=="

    def __init__(self, port: int | None = None, *, properties: Mapping[str, str] | None = None) -> None:
        """`port` is the plain listener's; `properties` go on top of the broker's own settings."""
        self._java, self._jars = java(), jars()
        super().__init__()
        ports = free_ports(len(LISTENERS) + 1)
        self._controller_port = ports.pop()
        self.ports = dict(zip(LISTENERS, ports, strict=True))
        if port is not None:
            self.ports["PLAINTEXT"] = port
        self.certificates = Certificates(self.folder / "certificates")
        self.issuer = Issuer(self.folder)  # whose tokens (OAUTHBEARER) are taken on SASL_SSL
        self._properties = self.folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in self._settings(properties or {}).items()))
        self._admin: AdminClient | None = None
        self._admin_used_s = 0.0
        self._format()

    # -- for clients ---------------------------------------------------------------------------------

    def bootstrap(self, listener: str = "PLAINTEXT") -> str:
        """host:port of a listener."""
        return f"127.0.0.1:{self.ports[listener]}"

    def client(self, listener: str = "PLAINTEXT", mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """librdkafka's settings to reach a listener, with the right user, password and certificates."""
        config = {"bootstrap.servers": self.bootstrap(listener), "security.protocol": listener}
        if "SASL" in listener:
            config |= {"sasl.mechanism": mechanism, "sasl.username": self.sasl_user, "sasl.password": self.sasl_password}
        if "SSL" in listener:
            config["ssl.ca.location"] = str(self.certificates.ca)
        if listener == "SSL":
            config |= {
                "ssl.certificate.location": str(self.certificates.client),
                "ssl.key.location": str(self.certificates.client_key),
            }
        return config

    # -- topics --------------------------------------------------------------------------------------

    @property
    def admin(self) -> AdminClient:
        """An administrator on the plain listener."""
        unused_s, self._admin_used_s = time.monotonic() - self._admin_used_s, time.monotonic()
        if self._admin is None or unused_s > _ADMIN_UNUSED_MAX_S:  # one that had stood idle for minutes answered nothing once
            # Its remarks on a broker that is down on purpose would only fill the screen.
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap(), "log_level": 0})
        return self._admin

    def new_topic(self, partitions: int = 1, **config: str) -> str:
        """A topic under a name of its own. `config` is the topic's, with _ for the dots (`cleanup_policy="compact"`)."""
        name = f"topic-{next(_numbers)}"
        self.create_topic(name, partitions, **config)
        return name

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        """Create a topic, and return when clients can use it."""
        wanted = NewTopic(name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
        self.admin.create_topics([wanted])[name].result(_ADMIN_TIMEOUT_S)
        self._await_partitions(name, partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and return when clients no longer see it."""
        self.admin.delete_topics([name])[name].result(_ADMIN_TIMEOUT_S)
        self._await_partitions(name, 0)

    def create_partitions(self, name: str, total: int) -> None:
        """Let a topic have `total` partitions, and return when clients can use them."""
        self.admin.create_partitions([NewPartitions(name, total)])[name].result(_ADMIN_TIMEOUT_S)
        self._await_partitions(name, total)

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        """Let each partition's log start at an offset, as retention would."""
        wanted = [TopicPartition(name, partition, offset) for partition, offset in before.items()]
        for future in self.admin.delete_records(wanted).values():
            future.result(_ADMIN_TIMEOUT_S)

    def end_offsets(self, name: str) -> dict[int, int]:
        """The end of each partition's log."""
        partitions = self.admin.list_topics(name, timeout=_ADMIN_TIMEOUT_S).topics[name].partitions
        asked = self.admin.list_offsets({TopicPartition(name, number): OffsetSpec.latest() for number in partitions})
        return {place.partition: future.result(_ADMIN_TIMEOUT_S).offset for place, future in asked.items()}

    def _await_partitions(self, name: str, partitions: int) -> None:
        def there() -> bool:
            seen = self.admin.list_topics(timeout=_ADMIN_TIMEOUT_S).topics.get(name)
            if seen is None:
                return partitions == 0
            led = [part for part in seen.partitions.values() if part.error is None and part.leader >= 0]
            return seen.error is None and len(led) == partitions

        def answered() -> bool:
            try:
                return len(self.end_offsets(name)) == partitions
            except KafkaException:  # none of them means anything else than "not yet", here
                return False

        until(there, timeout_s=_ADMIN_TIMEOUT_S, what=f"topic {name} has {partitions} partitions")
        if partitions:  # the metadata name a leader a little before it takes itself for one
            until(answered, timeout_s=_ADMIN_TIMEOUT_S, what=f"the leaders of topic {name} answer")

    # -- the process ---------------------------------------------------------------------------------

    def command(self) -> Sequence[str]:
        return [
            *self._jvm("-Xms256m", "-Xmx512m", f"-D{_ALLOWED}={self.issuer.jwks.as_uri()}"),
            "kafka.Kafka",
            str(self._properties),
        ]

    def ready(self) -> bool:
        if not all(listening(port) for port in self.ports.values()):
            return False
        try:
            return bool(self.admin.list_topics(timeout=1.0).brokers)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN}:
                return False
            raise

    def _jvm(self, *options: str) -> list[str]:
        # Half of the CPU of a short life goes into the second compiler and the concurrent collector.
        quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        return [str(self._java), *quick, *options, "-Dlog4j2.level=WARN", "-cp", f"{self._jars}/*"]

    def _format(self) -> None:
        users = [
            f"{mechanism}=[name={self.sasl_user},password={self.sasl_password}]"
            for mechanism in MECHANISMS
            if mechanism.startswith("SCRAM")
        ]
        command = [*self._jvm(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties)]
        for user in users:
            command += ["--add-scram", user]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's storage could not be formatted: {done.stdout}{done.stderr}")

    def _settings(self, more: Mapping[str, str]) -> dict[str, str]:
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(f"{name}:{name}" for name in LISTENERS) + ",CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            # Who comes without a name may do everything; anybody may, where nobody was given a right.
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
            "transaction.max.timeout.ms": "700000",
            # One node, short tests: everything small, nothing waits.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # After a kill the controller waits this long before it lets the broker back in (default 9 s).
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.retention.ms": "-1",  # timestamps of tests lie long past
            "log.retention.check.interval.ms": "1000",
            "log.segment.delete.delay.ms": "0",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificates.broker),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates.ca),
            "listener.name.ssl.ssl.client.auth": "required",
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            users = f'user_{self.sasl_user}="{self.sasl_password}"'
            settings[f"listener.name.{listener}.plain.sasl.jaas.config"] = f"{plain} {users};"
            settings[f"listener.name.{listener}.scram-sha-256.sasl.jaas.config"] = scram
            settings[f"listener.name.{listener}.scram-sha-512.sasl.jaas.config"] = scram
        settings["listener.name.sasl_ssl.plain.sasl.jaas.config"] = (
            f'{plain} user_{self.sasl_user}="{self.sasl_password}" user_$ConnectionString="{self.connection_string}";'
        )
        oauth, listener = "org.apache.kafka.common.security.oauthbearer.OAuthBearer", "listener.name.sasl_ssl"
        settings |= {
            f"{listener}.sasl.enabled.mechanisms": ",".join([*MECHANISMS, "OAUTHBEARER"]),
            f"{listener}.oauthbearer.sasl.jaas.config": f"{oauth}LoginModule required;",
            f"{listener}.oauthbearer.sasl.server.callback.handler.class": f"{oauth}ValidatorCallbackHandler",
            # For the whole broker: with a listener before them Kafka 4.1 passes these over, and believes any token.
            "sasl.oauthbearer.jwt.validator.class": f"{oauth.removesuffix('OAuthBearer')}BrokerJwtValidator",
            "sasl.oauthbearer.jwks.endpoint.url": self.issuer.jwks.as_uri(),
            "sasl.oauthbearer.expected.issuer": ISSUER,
            "sasl.oauthbearer.expected.audience": AUDIENCE,
        }
        return {**settings, **more}
