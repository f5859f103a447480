"""Real servers for tests and trials, without Docker: each a context manager, all on 127.0.0.1.

`python -m tests.servers kafka --port 9092`, `... postgresql`, `... mariadb` run one until Ctrl-C.
"""

from tests.servers.kafka import Kafka
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import Server, Unavailable
from tests.servers.sqlserver import SQLServer

__all__ = ["Kafka", "MariaDB", "PostgreSQL", "SQLServer", "Server", "Unavailable"]
