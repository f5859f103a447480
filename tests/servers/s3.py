"""An object store that speaks S3 (moto), with a bucket `lake`. It honours If-None-Match; that a real one does is not shown."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence

from typing_extensions import override

from tests.servers.process import Server, free_ports, listening

ID, SECRET = "AKIAWAXWINGTESTS", "s3cr3t/of+the/lake"


class S3(Server):
    """The store, in memory."""

    name = "s3"

    def __init__(self) -> None:
        super().__init__()
        (self.port,) = free_ports(1)

    @property
    def options(self) -> dict[str, str]:
        """As the package deltalake takes them."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    @override
    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    @override
    def ready(self) -> bool:
        if not listening(self.port):
            return False
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            client.request("PUT", "/lake")
            return client.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            client.close()
