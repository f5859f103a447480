"""The relay's own process (relay.py): `passing.py HOST PORT LISTEN_PORT`, told what to do by lines of standard input."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading


class Passing:
    """Connections, each passed on by a thread."""

    def __init__(self, address: tuple[str, int], port: int) -> None:
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self.requests = 0
        self._open: list[socket.socket] = []

    def cut(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._address)
            except OSError:  # the server is gone, and so is its client
                client.close()
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [client, server]
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        answered = True
        with client, server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    if not (data := source.recv(65_536)):
                        return
                    if source is server:
                        answered = True
                        client.sendall(data)
                    else:
                        self.requests += answered
                        answered = False
                        server.sendall(data)


def main() -> None:
    """The port, then an answer for each line of standard input."""
    host, server_port, port = sys.argv[1:]
    passing = Passing((host, int(server_port)), int(port))
    threading.Thread(target=passing.accept, daemon=True).start()
    print(passing.port, flush=True)
    for line in sys.stdin:
        if line == "cut\n":
            passing.cut()
        print(passing.requests, flush=True)


if __name__ == "__main__":
    main()
