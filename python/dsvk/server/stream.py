"""Answers on the wire: whole or as server-sent events, and only as long as the client is there."""
from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any, AsyncGenerator, Awaitable, Callable

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from . import limits
from .errors import ApiError, internal

Events = AsyncGenerator[dict[str, Any], None]


async def disconnection(receive: Callable[[], Awaitable[dict]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def while_connected(receive, work) -> Any:
    """What the coroutine `work` returns. When the client goes first, it is cancelled and ClientDisconnect raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnection(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump(content)


async def with_pauses(events: Events, seconds: float) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The events, and None whenever none has come for so long."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({coming}, timeout=seconds)
            if not coming.done():
                yield None
            elif (event := coming.result()) is None:
                return
            else:
                yield event
                coming = asyncio.ensure_future(anext(events, None))
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await events.aclose()


class EventStream(Response):
    """Events as data lines, and signs of life while there are none. named: by their type, too; otherwise [DONE] comes behind
    them. An error after the beginning is the last event, as failed(error) writes it. cancel() is called in the end."""

    def __init__(self, events: Events, named: bool, failed: Callable[[ApiError], dict], cancel: Callable[[], None]):
        super().__init__(headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                                  "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.named, self.failed, self.cancel = events, named, failed, cancel

    async def __call__(self, scope, receive, send) -> None:
        try:
            await while_connected(receive, self.write(send))
        except ClientDisconnect:
            pass
        finally:
            self.cancel()

    def line(self, event: dict[str, Any]) -> bytes:
        return (f"event: {event['type']}\n".encode() if self.named else b"") + b"data: " + dump(event) + b"\n\n"

    async def write(self, send) -> None:
        async def put(text: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        alive = self.line({"type": "ping"}) if self.named else b": keep-alive\n\n"
        async with aclosing(with_pauses(self.events, limits.KEEP_ALIVE_SECONDS)) as events:
            try:
                async for event in events:
                    await put(alive if event is None else self.line(event))
            except ApiError as error:
                await put(self.line(self.failed(error)), more=False)
                return
            except Exception:
                await put(self.line(self.failed(internal())), more=False)
                raise
        await put(b"" if self.named else b"data: [DONE]\n\n", more=False)
