"""HTTP/1.1 connections: uvicorn's, with the limits that it lacks. What is no HTTP, or ambiguous about where it ends, is 400; a head
that does not come is 408; both end the connection. So does a reader that takes nothing of what is sent."""
from __future__ import annotations

import asyncio
import errno
import re
import socket
import struct
from collections.abc import Callable
from types import FrameType
from typing import Any
from urllib.parse import unquote

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import limits
from .door import id_headers, new_id
from .engine import log
from .errors import ApiError
from .stream import dump

END = re.compile(rb"\n\r?\n")      # of a head, as h11 has it
LENGTHS = re.compile(rb"^(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE | re.MULTILINE)
LIST = re.compile(rb"^content-length[ \t]*:(?:[^\n]|\n[ \t])*,", re.IGNORECASE | re.MULTILINE)      # a line may go on in the next
AT_ONCE = struct.pack("ii", 1, 0)      # closed without a wait for what the system still has to send


def target(head: bytes) -> str:
    """The path of a request's first line, if it came so far."""
    words = head.partition(b"\n")[0].split(b" ")
    return unquote(words[1].partition(b"?")[0].decode("latin-1")) if len(words) > 2 else ""


class Watched:
    """A transport that aborts when its reader takes nothing of what waits to be sent, from one look at it to the next: be it an answer,
    an event of a stream, or what is left of either when the connection is closed. While more of a request is on its way (coming()
    says so), closing takes that first, for a while: the system answers what nobody reads with a reset, which overtakes the answer."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, coming: Callable[[], bool]):
        self.transport, self.loop, self.coming = transport, loop, coming
        self.written = 0
        self.closing: asyncio.TimerHandle | None = None
        self.timer: asyncio.TimerHandle | None = None
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):      # else the system may keep megabytes, and a slow reader is seen rarely
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.UNSENT_BYTES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        self.transport.write(data)
        self.written += len(data)
        if self.timer is None and self.transport.get_write_buffer_size():
            self.watch()

    def close(self) -> None:
        if self.closing is not None or not self.coming() or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        self.closing = self.loop.call_later(limits.LINGER_SECONDS, self.transport.close)

    def taken(self) -> int:
        return self.written - self.transport.get_write_buffer_size()

    def watch(self) -> None:
        self.timer = self.loop.call_later(limits.STALLED_SECONDS, self.look, self.taken())

    def look(self, taken: int) -> None:
        self.timer = None
        if self.taken() == taken:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self.watch()

    def unwatch(self) -> None:
        for timer in (self.timer, self.closing):
            if timer is not None:
                timer.cancel()


class Protocol(H11Protocol):
    """`head` is what has come of a request's head, `path` what the last one asks for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.head, self.path = b"", ""
        self.head_timer: asyncio.TimerHandle | None = None
        self.rest_timer: asyncio.TimerHandle | None = None      # of a body that nobody waits for any more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.watched = Watched(transport, self.loop, lambda: self.conn.their_state in (h11.SEND_BODY, h11.ERROR))
        super().connection_made(self.watched)  # type: ignore[arg-type]  # all of a transport's methods
        self.watch_head()

    def connection_lost(self, reason: Exception | None) -> None:
        super().connection_lost(reason)
        self.unwatch_head()
        self.unwatch_rest()
        self.watched.unwatch()

    def data_received(self, data: bytes) -> None:
        if self.watched.closing is None:
            super().data_received(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self.watched.closing is None and self.rest_timer is None:
            self.rest_timer = self.loop.call_later(limits.BODY_SECONDS, self.watched.transport.close)

    def unwatch_rest(self) -> None:
        if self.rest_timer is not None:
            self.rest_timer.cancel()
            self.rest_timer = None

    def handle_events(self) -> None:
        """Looks at what has come, be it behind another request, before it is understood."""
        if self.conn.their_state is h11.IDLE:
            self.head = END.split(self.conn.trailing_data[0], 1)[0]
            self.path = target(self.head) if self.head else self.path
            if len(self.head) > limits.HEAD_BYTES:
                self.refuse(ApiError(400, f"the head is larger than {limits.HEAD_BYTES} bytes"))
                return
            if len(LENGTHS.findall(self.head)) > 1 or LIST.search(self.head):      # h11 takes two that are equal for one
                self.refuse(ApiError(400, "content-length: the body's end is told twice", param="content-length"))
                return
        super().handle_events()
        if self.conn.their_state is not h11.SEND_BODY:
            self.unwatch_rest()
        self.watch_head()

    def watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self.head = b""
            self.unwatch_head()
        elif self.head_timer is None and (self.head or not self.path):      # between two requests another limit holds
            self.head_timer = self.loop.call_later(limits.HEAD_SECONDS, self.slow_head)

    def unwatch_head(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def slow_head(self) -> None:
        if self.head:
            self.refuse(ApiError(408, f"the head did not come within {limits.HEAD_SECONDS} s", code="request_timeout"))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.refuse(ApiError(400, "no HTTP/1.1 request that could be understood"))

    def refuse(self, error: ApiError) -> None:
        try:
            id = new_id()
            status, written = error.written(self.path, id)
            text = dump(written)
            head = h11.Response(status_code=status, headers=[
                (b"content-type", b"application/json"), (b"content-length", b"%d" % len(text)), (b"connection", b"close"),
                *id_headers(id)])
            for event in (head, h11.Data(data=text), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
            self.transport.close()
        except h11.LocalProtocolError:      # in the middle of an answer
            self.transport.abort()


class Server(uvicorn.Server):
    """Ends when it is asked to once, after a while for what runs; at once when it is asked again. told: called the first time. It takes
    a few connections at a time, so that asyncio, without descriptors, fails a few times a second and not thousands."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], object]) -> None:
        super().__init__(config)
        self.told, self.without_descriptors = told, False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self.excepted)
        await super().startup(sockets)
        for listening in sockets or ():      # uvicorn made it as short as the number that are taken at a time
            listening.listen(limits.PENDING)

    def excepted(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Nobody waited for this exception. Strangers can use up all descriptors, so that is said once."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif not self.without_descriptors:
            self.without_descriptors = True
            log.error("no descriptors are left: new connections wait until some are closed (see ulimit -n)")

    def end(self) -> None:
        """As if it had been told to, without a word; from any thread, and before run(), too."""
        self.should_exit = True

    def handle_exit(self, signal: int, frame: FrameType | None) -> None:
        again = self.should_exit
        super().handle_exit(signal, frame)
        if again:
            self.force_exit = True
        else:
            self.told()      # when all is set: whoever hears it may tell it again at once, in the middle of this


def server(app: ASGIApp, drain: float = limits.DRAIN_SECONDS, told: Callable[[], object] = lambda: None) -> Server:
    """What serves an application; .run(sockets=[...]) returns when it has been told to end. drain: seconds for what runs then;
    told: called when that begins."""
    return Server(uvicorn.Config(
        app, http=Protocol, ws="none", log_level="error", access_log=False, server_header=False,      # strangers make warnings
        backlog=limits.ACCEPTED, h11_max_incomplete_event_size=limits.HEAD_BYTES,
        timeout_graceful_shutdown=drain), told)  # type: ignore[arg-type]  # parts of a second, too
