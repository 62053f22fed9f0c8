"""An S3 of the tests' own: moto's server in a process of its own, which can go away on demand."""

import multiprocessing
import socket
import urllib.request
from collections.abc import Callable, Iterable
from multiprocessing.sharedctypes import Synchronized
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
KEY = "AKIATESTSOFLODE00001"
SECRET = "t0pSecret/of+the-tests-only"
ENDLESS = 1 << 40


class Gate:
    """Answers a number of requests, then breaks every connection as a dead server does."""

    def __init__(self, app: Callable[..., Iterable[bytes]], left: "Synchronized[int]") -> None:
        self.app, self.left = app, left

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self.left.get_lock():
            self.left.value -= 1
            is_open = self.left.value >= 0
        if not is_open:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return self.app(environ, start) if is_open else []


def serve(port: int, left: "Synchronized[int]", ready: Any) -> None:
    """Serve until the process is ended."""
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = Gate(DomainDispatcherApplication(create_backend_app), left)
    server = make_server("127.0.0.1", port, app, threaded=True)
    ready.set()
    server.serve_forever()


class S3Server:
    """A server on a free port; its objects live as long as it does."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.buckets = 0
        self.left = CONTEXT.Value("q", ENDLESS)
        ready = CONTEXT.Event()
        self.process = CONTEXT.Process(target=serve, args=(port, self.left, ready), daemon=True)
        self.process.start()
        assert ready.wait(60), "moto's server did not start"

    @property
    def environment(self) -> dict[str, str]:
        """What tells a program how to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_MAX_ATTEMPTS": "2",
        }

    def make_bucket(self) -> str:
        """Make a bucket of a name that was not used before, and return its URL."""
        self.buckets += 1
        name = f"lode-{self.buckets}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        return f"s3://{name}"

    def answer(self, requests: int = ENDLESS) -> None:
        """Answer so many requests from now on, and then none."""
        self.left.value = requests

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.join()
