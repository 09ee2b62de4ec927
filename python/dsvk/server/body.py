"""The JSON body of a request: within limits, and JSON by the letter (no duplicate keys, no NaN, whole characters). read() is for the event
loop, plain() and parse(), which take their time, for another thread."""
from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, NamedTuple, TypeVar

from starlette.requests import Request

from . import limits
from .errors import ApiError, bad, place
from .limits import JSON_DEPTH, JSON_OBJECTS, JSON_VALUES

PIECE = 1 << 20      # bytes looked at in one go, in which no other thread runs
PACKED_PIECE = 1 << 16      # the rest of one is copied for each member that ends in it
OUTSIDE = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|(?P<mark>[,\[{])', re.DOTALL)
Read = TypeVar("Read")


class Body(NamedTuple):
    """As it came, at most `most` bytes of it, packed or not."""
    data: bytes
    packed: bool
    most: int


def too_large(what: str) -> ApiError:
    return ApiError(413, f"the body {what}", code="request_too_large")


async def read(request: Request, most: int) -> Body:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type: expected application/json, got {kind[:80]!r}", param="content-type")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise ApiError(415, f"content-encoding: expected identity or gzip, got {encoding[:80]!r}", param="content-encoding")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and (len(told) > 20 or int(told) > most):
        raise too_large(f"is larger than {most} bytes")
    body, began = bytearray(), time.monotonic()
    pieces = request.stream()
    while True:
        late = began + limits.BODY_SECONDS + len(body) / limits.BODY_RATE
        try:
            async with asyncio.timeout(late - time.monotonic()):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise ApiError(408, f"the body comes too slowly: {len(body)} bytes in {time.monotonic() - began:.0f} s",
                           code="request_timeout") from None
        if piece is None:
            break
        body += piece
        if len(body) > most:
            raise too_large(f"is larger than {most} bytes")
    return Body(bytes(body), encoding == "gzip", most)


def unpacked(body: Body) -> bytes:
    """One member of gzip or several behind each other, which make one text."""
    most = min(body.most, limits.UNPACKED_BYTES + limits.UNPACKED_RATIO * len(body.data))
    text, at = bytearray(), 0
    for _ in range(limits.GZIP_MEMBERS):
        unpack = zlib.decompressobj(wbits=31)
        while not unpack.eof:
            piece = body.data[at:at + PACKED_PIECE]
            if not piece:
                raise bad("content-encoding", "gzip that is cut")
            try:
                text += unpack.decompress(piece, most + 1 - len(text))
            except zlib.error as error:
                raise bad("content-encoding", f"no gzip from byte {at} on: {error}") from None
            if len(text) > most:
                raise too_large(f"of {len(body.data)} bytes is larger than {most} bytes when it is unpacked")
            at += len(piece) - len(unpack.unused_data)
        if at == len(body.data):
            return bytes(text)
    raise bad("content-encoding", f"gzip of more than {limits.GZIP_MEMBERS} members")


def check_size(text: bytes) -> None:
    """As many values as are taken, before any is made: they are counted by the commas and brackets outside of texts."""
    found = 0
    for at in range(0, len(text), PIECE):
        found += sum(text.count(mark, at, at + PIECE) for mark in b",[{")
    if found < JSON_VALUES:
        return
    found = 0
    for piece in OUTSIDE.finditer(text):      # those inside were counted, too
        found += piece.lastgroup is not None
        if found >= JSON_VALUES:
            raise too_large(f"has more than {JSON_VALUES} values")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the key {name[:80]!r} appears twice")
        members[name] = value
    return members


def no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


class Check:
    """Depth, objects, and texts that are Unicode, for an escape may be half of a character. escapes: there are some that could be."""

    def __init__(self, escapes: bool) -> None:
        self.escapes, self.objects = escapes, 0

    def value(self, value: Any, location: tuple[str | int, ...] = ()) -> None:
        if isinstance(value, (dict, list)) and len(location) >= JSON_DEPTH:      # the body is the first
            raise bad(str(location[0]), f"nested deeper than {JSON_DEPTH}")
        if isinstance(value, str):
            self.text(value, location)
        elif isinstance(value, float) and value in (float("inf"), float("-inf")):
            raise bad(place(location), "a number that is too large")
        elif isinstance(value, dict):
            self.objects += 1
            if self.objects > JSON_OBJECTS:
                raise too_large(f"has more than {JSON_OBJECTS} objects")
            for name, member in value.items():
                inside = (*location, name)
                self.text(name, inside)
                self.value(member, inside)
        elif isinstance(value, list):
            for i, element in enumerate(value):
                self.value(element, (*location, i))

    def text(self, text: str, location: tuple[str | int, ...]) -> None:
        try:
            if self.escapes:
                text.encode()
        except UnicodeEncodeError:
            where = place(location).encode(errors="backslashreplace").decode()      # a name may be such a text itself
            raise bad(where, "has half of a surrogate pair") from None


def plain(body: Body) -> bytes:
    return unpacked(body) if body.packed else body.data


def parse(text: bytes) -> dict[str, Any]:
    check_size(text)
    try:
        value = json.loads(text.decode(), object_pairs_hook=once, parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise bad(None, f"the body is no UTF-8: byte {error.start}") from None
    except RecursionError:
        raise bad(None, f"the body is nested deeper than {JSON_DEPTH}") from None
    except ValueError as error:
        raise bad(None, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad(None, "the body: expected an object")
    Check(b"\\ud" in text or b"\\uD" in text).value(value)
    return value


class Readers:
    """Threads that read bodies and make prompts of them: few, for the interpreter runs one thread at a time, and the event loop is to
    have its turn. Long ones have threads of their own, so that they hold up each other and no other request."""

    def __init__(self) -> None:
        self.short, self.long = (ThreadPoolExecutor(limits.READERS, f"dsvk {kind} reader") for kind in ("short", "long"))

    def of(self, size: int) -> ThreadPoolExecutor:
        """For a body of so many bytes."""
        return self.long if size > limits.LONG_BYTES else self.short

    async def run(self, size: int, read: Callable[[], Read]) -> Read:
        return await asyncio.get_running_loop().run_in_executor(self.of(size), read)

    def close(self) -> None:
        for threads in (self.short, self.long):
            threads.shutdown(wait=False, cancel_futures=True)
