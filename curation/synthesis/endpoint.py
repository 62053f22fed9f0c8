"""The client of an OpenAI-compatible server: the one door to aiohttp.

A few workers take requests from an iterator, so no more are under way than ``concurrency``. What
can pass is asked again, a bounded number of times; a request that fails costs only itself. A server
that says when to come back is left alone until then, by all workers.
"""

import asyncio
import ipaddress
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import orjson

from catalog.draws import draw

# The only place a key is read from: it is not in settings, logs or the catalog.
KEY_VARIABLE: Final = "LODE_LLM_KEY"
# What another try can mend; every other status is the request's own fault, or the user's.
PASSING: Final = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
REFUSED: Final = {
    401: f"wants another key: set {KEY_VARIABLE}",
    403: f"refuses this key: set {KEY_VARIABLE}",
    404: "knows no such model, or is no OpenAI-compatible server: check URL and --model",
    405: "is no OpenAI-compatible server: check the URL",
}
MAX_WAIT_S: Final = 300.0
MAX_BODY_BYTES: Final = 16 << 20


class EndpointError(RuntimeError):
    """The server cannot be used at all; what was answered before is kept."""


class RequestError(Exception):
    """One request got no answer; the message is the reason for quarantine."""

    def __init__(self, reason: str, requests: int) -> None:
        super().__init__(reason)
        self.requests = requests


class _PassingError(Exception):
    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Endpoint:
    """Where a server is and how it is asked; ``url`` is with or without ``/v1``."""

    url: str
    concurrency: int = 64
    timeout_s: float = 300.0
    max_requests: int = 6  # for one answer
    backoff_s: float = 0.5  # doubled with every further request

    def __post_init__(self) -> None:
        """Check the settings; ValueError says what is allowed."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--endpoint {self.url!r}: a URL such as http://127.0.0.1:8000")
        if parts.username or parts.password or parts.query:
            raise ValueError(f"the URL of an endpoint carries no key; set {KEY_VARIABLE} instead")
        for name, least in (("concurrency", 1), ("max_requests", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.timeout_s > 0 or not self.backoff_s >= 0:
            raise ValueError("timeout_s must be above 0, and backoff_s not below")

    @property
    def completions_url(self) -> str:
        """Return where chat completions are posted."""
        base = self.url.rstrip("/").removesuffix("/v1")
        return f"{base}/v1/chat/completions"

    @property
    def is_loopback(self) -> bool:
        """Say whether the server is this machine's own."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


@dataclass(frozen=True)
class Answer:
    """What a server answered, and how many requests that took."""

    content: str
    is_whole: bool  # False: it was cut at max_tokens
    requests: int
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass
class Client:
    """An open connection to an endpoint."""

    endpoint: Endpoint
    session: Any
    quiet_until: float = 0.0
    _failures: Any = field(default_factory=lambda: _failures())

    async def ask(self, body: dict[str, Any]) -> Answer:
        """Post a request and return its answer; what can pass is tried again.

        RequestError where this request gets none, EndpointError where no request would.
        """
        data = orjson.dumps(body)
        for attempt in range(1, self.endpoint.max_requests + 1):
            await asyncio.sleep(max(0.0, self.quiet_until - time.monotonic()))
            try:
                return self._read(await self._post(data, attempt), attempt)
            except _PassingError as error:
                reason, wait_s = str(error), error.wait_s
            except self._failures as error:
                reason, wait_s = f"{type(error).__name__}: {error}".removesuffix(": "), 0.0
            if wait_s:
                self.quiet_until = max(self.quiet_until, time.monotonic() + wait_s)
            elif attempt < self.endpoint.max_requests:
                await asyncio.sleep(self._pause_s(attempt, data))
        requests = self.endpoint.max_requests
        raise RequestError(f"no answer after {requests} requests: {reason}", requests)

    async def _post(self, data: bytes, attempt: int) -> bytes:
        async with self.session.post(
            self.endpoint.completions_url, data=data, allow_redirects=False
        ) as response:
            body = await response.content.read(MAX_BODY_BYTES)
            while not response.content.at_eof():
                if len(body) >= MAX_BODY_BYTES:
                    raise RequestError(
                        f"the response is longer than {MAX_BODY_BYTES:,} bytes", attempt
                    )
                body += await response.content.read(MAX_BODY_BYTES - len(body))
            if response.status in PASSING:
                raise _PassingError(
                    f"HTTP {response.status}", _retry_after_s(response.headers.get("Retry-After"))
                )
            if response.status in REFUSED:
                raise EndpointError(
                    f"{self.endpoint.url} answers {response.status}: it {REFUSED[response.status]}"
                    f" ({_said(body)})"
                )
            if response.status != 200:
                raise RequestError(f"HTTP {response.status}: {_said(body)}", attempt)
            return bytes(body)

    def _read(self, body: bytes, requests: int) -> Answer:
        try:
            document = orjson.loads(body)
            choice = document["choices"][0]
            content = choice["message"]["content"]
            usage = document.get("usage") or {}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _PassingError("the response is no chat completion") from None
        return Answer(
            content if isinstance(content, str) else "",
            choice.get("finish_reason") != "length",
            requests,
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )

    def _pause_s(self, attempt: int, data: bytes) -> float:
        """Return a pause that doubles; half of it is drawn, so that workers do not come at once."""
        drawn = float(draw(attempt, data[-64:].hex(), np.array([len(data)]))[0]) / 2.0**64
        pause_s = self.endpoint.backoff_s * 2.0 ** (attempt - 1) * (0.5 + drawn / 2)
        return min(pause_s, MAX_WAIT_S)


@asynccontextmanager
async def connect(endpoint: Endpoint) -> AsyncIterator[Client]:
    """Open connections to a server, no more than ``concurrency``."""
    aiohttp = _aiohttp()
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=endpoint.concurrency),
        timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
        headers=headers,
        trust_env=not endpoint.is_loopback,  # proxies of the environment, but not to ourselves
        max_line_size=1 << 16,
    ) as session:
        yield Client(endpoint, session)


async def in_parallel(
    count: int, jobs: Iterable[Any], work: Callable[[Any], Awaitable[None]]
) -> None:
    """Give each job to ``work``; at most ``count`` are taken from ``jobs`` before they are done.

    The first error of a job ends all of them and is raised.
    """
    source = iter(jobs)

    async def worker() -> None:
        for job in source:
            await work(job)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def check_installed() -> None:
    """Raise where the client's library is not installed."""
    _aiohttp()


def _aiohttp() -> Any:
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise ValueError(
            "asking a language model needs aiohttp: pip install 'lode-engine[synth]'"
        ) from None
    return aiohttp


def _failures() -> tuple[type[BaseException], ...]:
    return (_aiohttp().ClientError, asyncio.TimeoutError, OSError)


def _retry_after_s(value: str | None) -> float:
    """Read seconds; a date or nonsense counts as nothing said."""
    try:
        return min(max(float(value or 0), 0.0), MAX_WAIT_S)
    except ValueError:
        return 0.0


def _said(body: bytes) -> str:
    return " ".join(body[:300].decode(errors="replace").split()) or "without a word"
