"""Certificates for one broker and its clients, made at start and gone with it."""

from __future__ import annotations

from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_PASSWORD = "key-secret"


class Certificates:
    """PEM files: `ca`, `broker` (key and certificate), `client`, `client_key`, `client_key_encrypted`, `other_ca`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca = folder / "ca.pem"
        self.other_ca = folder / "other-ca.pem"  # one that has signed nothing here
        self.broker = folder / "broker.pem"
        self.client = folder / "client.pem"
        self.client_key = folder / "client.key"
        self.client_key_encrypted = folder / "client-encrypted.key"

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        trustme.CA().cert_pem.write_to_path(self.other_ca)
        broker = authority.issue_cert("127.0.0.1", "localhost")
        self.broker.write_bytes(_key(broker, NoEncryption()) + b"".join(part.bytes() for part in broker.cert_chain_pems))
        client = authority.issue_cert("client@waxwing.test", common_name="waxwing-client")
        self.client.write_bytes(b"".join(part.bytes() for part in client.cert_chain_pems))
        self.client_key.write_bytes(_key(client, NoEncryption()))
        self.client_key_encrypted.write_bytes(_key(client, BestAvailableEncryption(KEY_PASSWORD.encode())))


def _key(certificate: trustme.LeafCert, encryption: KeySerializationEncryption) -> bytes:
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)  # the one form Kafka reads
