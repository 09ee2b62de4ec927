"""Answers on the wire: whole or as server-sent events, and only as long as the client is there."""
from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Any, AsyncGenerator, Callable, Coroutine

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from . import limits
from .errors import ApiError, internal, unavailable

Events = AsyncGenerator[dict[str, Any], None]


async def disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine `work` returns. When the client goes first, it is cancelled and ClientDisconnect raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnection(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect()
    except asyncio.CancelledError:      # the server ends
        raise unavailable("the server is shutting down") from None
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


class Reply:
    """What a wire format makes of an answer: `events()`, or `whole()` of them. named_events: by their type, too; otherwise
    [DONE] comes behind them."""
    named_events = False

    def events(self) -> Events:
        raise NotImplementedError

    async def whole(self) -> dict[str, Any]:
        raise NotImplementedError

    def alive(self) -> dict[str, Any] | None:
        """An event for a client that has heard nothing for a while; None: a comment will do."""
        return None

    def failed(self, error: ApiError, written: dict[str, Any]) -> dict[str, Any]:
        """The last event of a stream that an error ends; written: as other responses have it."""
        return written


class EventStream(Response):
    """A reply's events as data lines, and signs of life while there are none. An error after the beginning is the last event;
    written(error): as other responses have it. cancel() is called in the end."""

    def __init__(self, reply: Reply, written: Callable[[ApiError], dict[str, Any]], cancel: Callable[[], None]):
        super().__init__(headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache",
                                  "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.reply, self.written, self.cancel = reply, written, cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self.write(send))
        except ClientDisconnect:
            pass
        finally:
            self.cancel()

    def line(self, event: dict[str, Any]) -> bytes:
        return (f"event: {event['type']}\n".encode() if self.reply.named_events else b"") + b"data: " + dump(event) + b"\n\n"

    def sign_of_life(self) -> bytes:
        event = self.reply.alive()
        return b": keep-alive\n\n" if event is None else self.line(event)

    async def write(self, send: Send) -> None:
        async def put(text: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        async def end(error: ApiError) -> None:
            await put(self.line(self.reply.failed(error, self.written(error))), more=False)

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(with_pauses(self.reply.events(), limits.KEEP_ALIVE_SECONDS)) as events:
            try:
                async for event in events:
                    await put(self.sign_of_life() if event is None else self.line(event))
            except ApiError as error:
                await end(error)
                return
            except asyncio.CancelledError:      # the client is gone, and nothing is sent; or the server ends
                with suppress(TimeoutError, OSError):
                    async with asyncio.timeout(1):
                        await end(unavailable("the server is shutting down"))
                raise
            except Exception:
                await end(internal())
                raise
        await put(b"" if self.reply.named_events else b"data: [DONE]\n\n", more=False)
