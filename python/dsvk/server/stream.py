"""Answers on the wire: whole or as server-sent events, and only as long as the client is there."""
from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any, AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from .errors import ApiError, internal


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


class EventStream(Response):
    """Events as data lines, then [DONE]; an error after the beginning is the last event. cancel() is called in the end."""

    def __init__(self, events: AsyncIterator[dict[str, Any]], cancel: Callable[[], None]):
        super().__init__(headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                                  "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.cancel = events, cancel

    async def __call__(self, scope, receive, send) -> None:
        try:
            await while_connected(receive, self.write(send))
        except ClientDisconnect:
            pass
        finally:
            self.cancel()

    async def write(self, send) -> None:
        async def data(line: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": b"data: " + line + b"\n\n", "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self.events) as events:
            try:
                async for event in events:
                    await data(dump(event))
            except ApiError as error:
                await data(dump(error.body()), more=False)
                return
            except Exception:
                await data(dump(internal().body()), more=False)
                raise
        await data(b"[DONE]", more=False)
