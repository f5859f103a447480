"""Run one server until Ctrl-C: `python -m tests.servers kafka --port 9092`, `python -m tests.servers postgresql`."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.servers import Kafka, PostgreSQL, Unavailable
from tests.servers.process import listening


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="A real server on 127.0.0.1 until Ctrl-C.")
    parser.add_argument("server", choices=["kafka", "postgresql"])
    parser.add_argument("--port", type=int, help="the plain listener's (default: 9092, 5432)")
    arguments = parser.parse_args()
    asked = {signal.SIGINT, signal.SIGTERM}
    port = arguments.port or {"kafka": 9092, "postgresql": 5432}[arguments.server]
    if listening(port):  # else its answers would be taken for ours
        sys.exit(f"error: something listens on 127.0.0.1:{port} already; choose another port with --port")
    try:
        with Kafka(port) if arguments.server == "kafka" else PostgreSQL(port) as server:
            _say(server)
            # Only now: the server would have inherited the mask, and could not be stopped.
            signal.pthread_sigmask(signal.SIG_BLOCK, asked)
            signal.sigwait(asked)
    except Unavailable as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _say(server: Kafka | PostgreSQL) -> None:
    print(f"{server.name} runs (process {server.pid}, data and log in {server.folder}); Ctrl-C ends it and removes its data.")
    if isinstance(server, PostgreSQL):
        print(f"DATABASE_URL={server.url()}", flush=True)
        return
    for listener, port in server.ports.items():
        print(f"  {listener:<15} 127.0.0.1:{port}")
    print(f"  user {server.sasl_user}, password {server.sasl_password}, certificates in {server.folder}/certificates")
    print(f"KAFKA_BOOTSTRAP_SERVERS={server.bootstrap()}", flush=True)


if __name__ == "__main__":
    main()
