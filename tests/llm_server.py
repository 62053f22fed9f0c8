"""A small OpenAI-compatible server that can be slow, rude and wrong on demand.

It answers ``POST /v1/chat/completions`` over real sockets, from a thread of its own. What it does
with a request is decided by a ``Behaviour``: a function of the parsed request and of how often the
same messages were asked before.
"""

import asyncio
import json
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server does: answer with a content, or misbehave."""

    content: str | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    body: bytes | None = None  # instead of a completion
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    reset: bool = False  # close without a byte
    finish_reason: str = "stop"


Behaviour = Callable[[dict[str, Any], int], Reply]


@dataclass
class Asked:
    """A request as it came in."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str


@dataclass
class LlmServer:
    """``with LlmServer(behaviour) as server``: it listens on ``server.url`` and remembers."""

    behave: Behaviour
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    _times: Counter[str] = field(default_factory=Counter)
    _now: int = 0

    def __enter__(self) -> "LlmServer":
        started = threading.Event()

        def serve() -> None:
            self._loop = asyncio.new_event_loop()
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._connection, "127.0.0.1", 0)
            )
            port = self._server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            started.set()
            self._loop.run_forever()
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; say whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        stays = headers.get("connection") != "close"
        if head[0].startswith("GET "):  # clients that ask for the list of models first
            writer.write(b'HTTP/1.1 200 X\r\ncontent-length: 12\r\n\r\n{"data": []}')
            await writer.drain()
            return stays
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
        self.asked.append(Asked(body, headers, head[0].split(" ")[1]))
        same = json.dumps(body["messages"])
        reply = self.behave(body, self._times[same])
        self._times[same] += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        self._now -= 1
        if reply.reset:
            writer.transport.abort()
            return False
        data = _body(reply) if reply.body is None else reply.body
        more = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        top = f"HTTP/1.1 {reply.status} X\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode()
        writer.write(top + (data if reply.cut_after is None else data[: reply.cut_after]))
        await writer.drain()
        return stays and reply.cut_after is None


def _body(reply: Reply) -> bytes:
    message = {"role": "assistant", "content": reply.content}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    return json.dumps({"model": "tiny", "choices": [choice], "usage": usage}).encode()


def made_up(body: dict[str, Any], times: int) -> Reply:
    """Answer any shipped prompt by its schema, with texts that depend on the request alone."""
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    ((key, schema),) = properties.items()
    name = zlib.crc32(body["messages"][-1]["content"].encode())
    texts = [f"编号{name}的第{place}个问题是什么" for place in range(schema["minItems"])]
    if key == "pairs":
        made: list[Any] = [
            {"sentence1": text, "sentence2": f"{text}呢", "similarity": place % 6}
            for place, text in enumerate(texts)
        ]
    else:
        made = list(texts)
    return Reply(json.dumps({key: made}, ensure_ascii=False))


def main() -> None:
    """Serve until standard input ends; print the URL first."""
    with LlmServer(made_up) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
