"""Run one server until Ctrl-C: `python -m tests.servers kafka --port 9092`, `python -m tests.servers postgresql`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from tests.servers import Kafka, MariaDB, PostgreSQL, Server, Unavailable
from tests.servers.process import listening

SERVERS: dict[str, Callable[[int], Server]] = {"kafka": Kafka, "postgresql": PostgreSQL, "mariadb": MariaDB}
PORTS = {"kafka": 9092, "postgresql": 5432, "mariadb": 3306}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="A real server on 127.0.0.1 until Ctrl-C.")
    parser.add_argument("server", choices=list(PORTS))
    parser.add_argument("--port", type=int, help="the plain listener's (default: the usual one)")
    arguments = parser.parse_args()
    asked = {signal.SIGINT, signal.SIGTERM}
    port = arguments.port or PORTS[arguments.server]
    if listening(port):  # else its answers would be taken for ours
        sys.exit(f"error: something listens on 127.0.0.1:{port} already; choose another port with --port")
    try:
        with SERVERS[arguments.server](port) as server:
            _say(server)
            # Only now: the server would have inherited the mask, and could not be stopped.
            signal.pthread_sigmask(signal.SIG_BLOCK, asked)
            signal.sigwait(asked)
    except (Unavailable, TimeoutError) as error:  # the latter on a busy machine
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _say(server: Server) -> None:
    print(f"{server.name} runs (process {server.pid}, data and log in {server.folder}); Ctrl-C ends it and removes its data.")
    if isinstance(server, PostgreSQL | MariaDB):
        print(f"DATABASE_URL={server.url()}", flush=True)
        return
    assert isinstance(server, Kafka)
    for listener, port in server.ports.items():
        print(f"  {listener:<15} 127.0.0.1:{port}")
    print(f"  user {server.sasl_user}, password {server.sasl_password}, certificates in {server.folder}/certificates")
    print(f"KAFKA_BOOTSTRAP_SERVERS={server.bootstrap()}", flush=True)


if __name__ == "__main__":
    main()
