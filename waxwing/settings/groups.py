"""The settings of sources and targets: each with its environment name (the field's name in capitals), unit, bounds, help."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator

from waxwing.settings.group import OF_LOGIN, Group

_SERVER = re.compile(r"([A-Z_]+://)?(\[[0-9a-fA-F:.]+\]|[^\s,:/\[\]]+)(:\d{1,5})?")


class LaneSettings(Group):
    """What sources and sinks share."""

    common: ClassVar[frozenset[str]] = frozenset({"flow_name"})

    flow_name: str = Field(
        default="",
        max_length=100,
        description="Names the flow: what is stored of it (positions, windows, dead letters) and its group go by this name. Two "
        "flows that write into one database, Kafka or folder need two (and tables of their own, where rows of one key would "
        "replace each other). Empty: the name that the code gives it.",
    )
    lanes: int = Field(
        default=4,
        ge=1,
        le=512,
        description="Parallel readers (and writers); lane i reads every partition p with p % lanes == i, of several topics by a "
        "hash of the topic as well.",
    )


def start_of(text: str) -> str:
    """START as it was given.

    Raises:
        ValueError: it is neither earliest, latest, nor a time with its zone.
    """
    if text not in ("earliest", "latest"):
        try:
            zoned = datetime.fromisoformat(text).tzinfo is not None
        except ValueError:
            zoned = False
        if not zoned:
            raise ValueError("must be earliest, latest, or a time with its zone such as 2026-01-31T00:00:00Z")
    return text


class SourceSettings(LaneSettings):
    """What any source is told."""

    start: str = Field(
        default="earliest",
        examples=["2026-01-31T00:00:00Z"],
        description="Where to begin where no position is stored: earliest, latest, or an ISO time with its zone.",
    )
    begin: Literal["", "anew"] = Field(
        default="",
        description="`anew`: a step without positions begins by START even where a flow or step of another name filled its table "
        "from this source, which is refused otherwise: rows are doubled or written over. No effect on steps that have positions, "
        "so a restart goes on.",
    )
    until: Literal["", "end"] = Field(
        default="", description="`end`: stop where the log ended at the start. Empty: run for ever."
    )
    on_data_loss: Literal["fail", "continue"] = Field(
        default="fail",
        description="What to do when the log no longer (or not yet) holds the stored position, or what is read was made anew "
        "under its name.",
    )

    _start_of = field_validator("start")(start_of)


class KafkaClientSettings(Group):
    """Which Kafka, and how to talk to it."""

    kafka_bootstrap_servers: str = Field(
        default="",
        validation_alias=AliasChoices("kafka_bootstrap_servers", "kafka_brokers"),
        description="Kafka brokers, host:port separated by commas. Empty: the embedded demonstration.",
        examples=["127.0.0.1:9092"],
    )
    kafka_away_max_s: float = Field(
        default=300.0, ge=1.0, description="How long to wait for a broker that does not answer before exit 75."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="How to talk to the brokers."
    )
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="",
        description="SASL mechanism, with SASL_PLAINTEXT or SASL_SSL. OAUTHBEARER: a token from KAFKA_OAUTH_TOKEN_URL.",
    )
    kafka_sasl_username: str = Field(default="", description="SASL user.")
    kafka_sasl_password: SecretStr = Field(default=SecretStr(""), description="SASL password.")
    kafka_oauth_token_url: str = Field(
        default="",
        description="Where OAUTHBEARER gets its tokens (OIDC, by client id and secret).",
        examples=["https://login.example.com/oauth2/v2.0/token"],
        json_schema_extra=OF_LOGIN,
    )
    kafka_oauth_client_id: str = Field(default="", description="The client's id there.")
    kafka_oauth_client_secret: SecretStr = Field(default=SecretStr(""), description="The client's secret there.")
    kafka_oauth_scope: str = Field(default="", description="What the token is asked for; several with blanks between them.")
    kafka_oauth_extensions: str = Field(
        default="",
        description="Told to the broker beside the token: name=value, several separated by commas.",
        examples=["logicalCluster=lkc-abc123,identityPoolId=pool-1a2b"],
    )
    kafka_ssl_ca_file: str = Field(default="", description="File of the certificate authorities (PEM) to trust.")
    kafka_ssl_certificate_file: str = Field(default="", description="The client's certificate (PEM), for mutual TLS.")
    kafka_ssl_key_file: str = Field(default="", description="The client's private key (PEM), for mutual TLS.")
    kafka_ssl_key_password: SecretStr = Field(default=SecretStr(""), description="Password of the private key.")
    kafka_config: dict[str, Any] = Field(
        default_factory=dict,
        description="Any further librdkafka settings, as JSON; they win over ours but for those that exactness rests on.",
        examples=['{"fetch.max.bytes": 52428800}'],
    )

    @field_validator("kafka_oauth_token_url")
    @classmethod
    def _token_url(cls, text: str) -> str:
        if text and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", text):
            raise ValueError("must be a URL that begins with https:// or http://")
        return text

    @field_validator("kafka_oauth_extensions")
    @classmethod
    def _extensions(cls, text: str) -> str:
        if text and not all(re.fullmatch(r"[a-zA-Z]+=[^\s,=]+", one) for one in text.split(",")):
            raise ValueError("must be name=value, several separated by commas without blanks; names of letters alone")
        return text

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _servers(cls, text: str) -> str:
        if text and not all(_SERVER.fullmatch(server.strip()) for server in text.split(",")):
            raise ValueError("must be host:port, several separated by commas")
        return text


class KafkaSettings(SourceSettings, KafkaClientSettings):
    """Where records come from."""

    # Brokers are no such address: several topics of one cluster are told apart by their names.
    addresses: ClassVar[tuple[str, ...]] = ("source_topic",)
    kafka_group_id: str = Field(
        default="",
        validation_alias=AliasChoices("kafka_group_id", "sink_group_id"),
        description="Consumer group whose offsets are committed for lag tools. They are never read back. Empty: waxwing-FLOW.",
    )
    source_topic: str = Field(default="", min_length=1, description="Topic to read; several with commas between them.")
    source_topic_pattern: str = Field(
        default="",
        examples=["orders\\..*"],
        description="Instead of SOURCE_TOPIC: a regular expression that the names of the topics to read fit from end to end. "
        "Topics that come later are read from their log's start.",
    )
    on_unknown_topic: Literal["wait", "fail"] = Field(default="wait", description="What to do while the topic does not exist.")
    batch_records_max: int = Field(
        default=5_000, ge=1, le=100_000, description="Records in a batch at most; fewer where they are large."
    )
    partition_refresh_interval_s: float = Field(
        default=1.0,
        ge=0.1,
        # Kafka's client reads on in a re-created topic at the old offset and says nothing, so its id is asked for often.
        le=1.0,
        description="How often lanes look for new partitions and a re-created topic.",
    )

    @field_validator("source_topic")
    @classmethod
    def _topic(cls, text: str) -> str:
        names = [name.strip() for name in text.split(",")]
        if not all(re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", name) and name not in (".", "..") for name in names):
            raise ValueError("must be made of letters, digits, '.', '_' and '-', at most 249 of them; commas between several")
        return ",".join(dict.fromkeys(names))

    @field_validator("source_topic_pattern")
    @classmethod
    def _pattern(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return text


class SinkSettings(LaneSettings):
    """How batches become transactions, and what happens when that fails."""

    progress_interval_s: float = Field(
        default=10.0, ge=0.1, le=3_600.0, description="How often progress is logged, where stderr is no terminal."
    )
    flush_rows_max: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="Records in a transaction at most (a batch is not cut). How many follows from how fast they are taken.",
    )
    flush_interval_s: float = Field(
        default=0.0,
        ge=0.0,
        le=60.0,
        description="How long the first record of a transaction waits for others at least, before it begins.",
    )
    queue_records_max: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="A writer for which this many records wait takes no more. One above 256 bytes counts as several.",
    )
    retry_max_s: float = Field(
        default=300.0, ge=0.0, description="How long a failing connection or transaction is tried again before exit 75."
    )
    owner_stale_s: float = Field(
        default=5.0, ge=0.5, le=600.0, description="An owner without a heartbeat for this long is taken for dead."
    )
    bad_run_max: int = Field(
        default=1_000, ge=1, description="Bad records in a row, within one partition, before the flow stops (exit 65)."
    )
    bad_ratio_max: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="Share of bad records among 10,000 in succession, within one partition, above which it stops (exit 65).",
    )


class WindowSettings(SinkSettings):
    """How windows are kept."""

    window_buckets: int = Field(
        default=4,
        ge=1,
        le=1_000,
        description="Parts that the keys are divided into, each with a writer of its own. Changed by `waxwing rebucket`.",
    )
    window_snapshot_interval_s: float = Field(
        default=1.0,
        ge=0.0,
        le=600.0,
        description="How often a bucket writes its open state, at most (and no more often than its target commits). Rows of "
        "closed windows wait so long only where writing them at once would take more than a tenth of the time.",
    )
    late_records: Literal["dead_letters", "count"] = Field(
        default="dead_letters",
        description="Records that are late for a window: kept as dead letters, or only counted.",
    )


class KafkaTargetSettings(SinkSettings, KafkaClientSettings):
    """How records are written into topics."""

    kafka_transactions: Literal["yes", "no"] = Field(
        default="yes",
        description="`no`: for brokers without transactions. Messages are then written at least once: those of the last moment "
        "before a crash come twice.",
    )
    kafka_transaction_timeout_s: float = Field(
        default=60.0,
        ge=1.0,
        le=900.0,
        description="The broker ends a transaction that is open for so long; no more than its transaction.max.timeout.ms.",
    )
    kafka_compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="lz4", description="How messages are compressed on their way."
    )
    kafka_linger_ms: float = Field(
        default=5.0, ge=0.0, le=1_000.0, description="How long a message waits for others of its request, in milliseconds."
    )
    kafka_topic_partitions: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Partitions of a topic that is made because it is missing. 0: the broker's own number.",
    )
    kafka_topic_replication: int = Field(
        default=0, ge=0, le=100, description="Copies of topics that are made. 0: the broker's own number."
    )


class ParquetSettings(SinkSettings):
    """How large and how old the files of a folder get."""

    parquet_file_bytes_max: int = Field(
        default=134_217_728,
        ge=1_000,
        le=10_737_418_240,
        description="A file that has so many bytes is closed, and the next one begun. (A row group more may be in it.)",
    )
    parquet_file_rows_max: int = Field(
        default=1_000_000,
        ge=1,
        le=1_000_000_000,
        description="After so many rows of a lane its files are closed and shown to readers.",
    )
    parquet_file_age_s: float = Field(
        default=60.0,
        ge=0.0,
        le=86_400.0,
        description="How old a row gets before its file is closed and shown to readers: less means more and smaller files.",
    )
    parquet_zstd_level: int = Field(default=3, ge=1, le=22, description="How hard files are compressed: 1 is the quickest.")


class ParquetWindowSettings(ParquetSettings, WindowSettings):
    """What windows in a folder of files need."""


class MySQLSettings(Group):
    """MySQL or MariaDB by parts, which `load` makes into DATABASE_URL."""

    addresses: ClassVar[tuple[str, ...]] = ("mysql_",)
    mysql_host: str = Field(default="", description="Host of a MySQL or MariaDB server, in place of DATABASE_URL.")
    mysql_port: int = Field(default=3306, ge=1, le=65_535, description="Its port.")
    mysql_user: str = Field(default="", description="User.")
    mysql_password: SecretStr = Field(default=SecretStr(""), description="Password.")
    mysql_database: str = Field(default="", description="Database.")
    mysql_table: str = Field(default="", description="Table to write. Empty: the flow's own name for it.")


class SQLServerSettings(Group):
    """SQL Server or Azure SQL by parts, which `load` makes into DATABASE_URL."""

    addresses: ClassVar[tuple[str, ...]] = ("sqlserver_",)
    sqlserver_host: str = Field(default="", description="Host of a SQL Server, in place of DATABASE_URL.")
    sqlserver_port: int = Field(default=1433, ge=1, le=65_535, description="Its port.")
    sqlserver_db: str = Field(default="", description="Database.")
    sqlserver_user: str = Field(default="", description="User.")
    sqlserver_password: SecretStr = Field(default=SecretStr(""), description="Password.")
    sqlserver_driver: str = Field(
        default="",
        description="ODBC driver, by name or by file. Empty: the one that `waxwing drivers` lists first.",
        examples=["ODBC Driver 18 for SQL Server"],
    )
    sqlserver_encrypt: Literal["", "yes", "no", "strict", "mandatory", "optional"] = Field(
        default="", description="Encryption of the connection. Empty: the driver's own way (version 18: yes)."
    )
    sqlserver_trust_server_certificate: Literal["", "yes", "no"] = Field(
        default="", description="Take the server's certificate unchecked: for one that the server made itself."
    )


class DatabaseSettings(MySQLSettings, SQLServerSettings):
    """Where rows go."""

    addresses: ClassVar[tuple[str, ...]] = ("database_url", "database_table")
    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="SQLAlchemy URL of the database. Empty: the embedded demonstration.",
        examples=[
            "postgresql://user:password@127.0.0.1:5432/shop",
            "mysql://user:password@127.0.0.1:3306/shop",
            "mssql://user:password@127.0.0.1:1433/shop?TrustServerCertificate=yes",
            "sqlite:////var/lib/waxwing/orders.sqlite",
        ],
    )
    database_table: str = Field(
        default="",
        description="Table to write, `schema.table` or `table`; windows keep theirs. Empty: the flow's own name for it.",
    )
    database_connect_timeout_s: float = Field(default=10.0, ge=1.0, le=300.0, description="Time for a connection to be made.")
    database_lock_timeout_s: float = Field(
        default=30.0, ge=0.1, le=3_600.0, description="Time to wait for a lock before the transaction is tried again."
    )
    database_statement_timeout_s: float = Field(
        default=120.0,
        ge=1.0,
        le=3_600.0,
        description="Server-side limit on one statement, and (10 s at most) on an idle open transaction.",
    )


class SqlSettings(SinkSettings, DatabaseSettings):
    """What an SQL target needs."""


class SqlWindowSettings(SqlSettings, WindowSettings):
    """What windows in an SQL database need."""


class KafkaWindowSettings(KafkaTargetSettings, WindowSettings):
    """What windows in a topic need."""


class DeltaSettings(SinkSettings):
    """How records are written into Delta tables."""

    addresses: ClassVar[tuple[str, ...]] = ("delta_state_path",)
    delta_commit_age_s: float = Field(
        default=60.0,
        ge=0.0,
        le=3_600.0,
        description="How long the first record of a commit waits for others. Each commit is a version of the table, with files "
        "of its own: many small ones are what readers complain of.",
    )
    delta_commit_rows_max: int = Field(
        default=1_000_000, ge=1, le=100_000_000, description="Rows in a commit at most (a batch is not cut)."
    )
    delta_storage_options: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="For tables in an object store: the storage options of the package deltalake, as JSON. All of it is secret.",
        examples=['{"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "...", "AWS_SECRET_ACCESS_KEY": "..."}'],
    )
    delta_state_path: str = Field(
        default="",
        description="Folder (or URL) for what the flow remembers of the table: positions, open windows, owners. It must not lie "
        "inside the table. Empty: beside it, .NAME.waxwing.",
    )

    @field_validator("delta_storage_options")
    @classmethod
    def _endpoints(cls, given: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in given.items():
            if re.search(r"(?<!use_fabric_)endpoint(_url)?$", name.lower()) and "://" not in value.get_secret_value():
                raise ValueError(f"{name} has to be a URL, such as https://host:port")
        return given


class DeltaWindowSettings(DeltaSettings, WindowSettings):
    """What windows in a Delta table need."""
