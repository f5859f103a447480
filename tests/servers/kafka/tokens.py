"""A token server of OIDC: client id and secret for a token that the broker believes."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

ISSUER, AUDIENCE = "waxwing-tests", "kafka"


class Issuer:
    """Signs tokens (RS256). Whoever has the file `jwks` can check them."""

    def __init__(self, folder: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
        numbers = self._key.public_key().public_numbers()
        public = {"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig", "n": _number(numbers.n), "e": _number(numbers.e)}
        self.jwks = folder / "jwks.json"
        self.jwks.write_text(json.dumps({"keys": [public]}))

    def token(self, subject: str) -> str:
        """One that is signed, and good for an hour."""
        now_s = int(time.time())
        claims = {"iss": ISSUER, "sub": subject, "aud": AUDIENCE, "iat": now_s, "exp": now_s + 3_600, "scope": "write"}
        text = f"{_json({'alg': 'RS256', 'typ': 'JWT', 'kid': '1'})}.{_json(claims)}"
        return f"{text}.{_base64(self._key.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"


class TokenServer:
    """Gives tokens of an issuer to `client_id` with `client_secret`, and refuses all others (401).

    Attributes:
        asked: what it was asked, with the fields of each form.
    """

    client_id, client_secret = "waxwing-client", "wren+nest/4711="

    def __init__(self, issuer: Issuer) -> None:
        self.asked: list[dict[str, list[str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                outer.asked.append(form)
                login = f"{outer.client_id}:{outer.client_secret}".encode()
                if self.headers["Authorization"] == f"Basic {base64.b64encode(login).decode()}":
                    self._answer(200, access_token=issuer.token("alice"), token_type="Bearer")
                else:
                    self._answer(401, error="invalid_client", error_description="no such client, or another secret")

            def _answer(self, code: int, **fields: Any) -> None:
                body = json.dumps(fields).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def _number(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _json(fields: dict[str, Any]) -> str:
    return _base64(json.dumps(fields).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
