"""The JSON body of a request: within limits, and JSON by the letter (no duplicate keys, no NaN, whole characters)."""
from __future__ import annotations

import asyncio
import json
import time
import zlib
from typing import Any

from starlette.requests import Request

from . import limits
from .errors import ApiError, bad, place
from .limits import JSON_DEPTH


def too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes", code="request_too_large")


async def read(request: Request, most: int) -> bytes:
    """At most so many bytes, packed or not."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type: expected application/json, got {kind[:80]!r}", param="content-type")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise ApiError(415, f"content-encoding: expected identity or gzip, got {encoding[:80]!r}", param="content-encoding")
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
            raise too_large(most)
    return bytes(body) if encoding == "identity" else unpacked(bytes(body), most)


def unpacked(body: bytes, most: int) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        text = unpack.decompress(body, most + 1)
    except zlib.error as error:
        raise bad("content-encoding", f"no gzip: {error}") from None
    if len(text) > most:
        raise too_large(most)
    if not unpack.eof or unpack.unused_data:
        raise bad("content-encoding", "gzip that is cut, or followed by something else")
    return text


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the key {name[:80]!r} appears twice")
        members[name] = value
    return members


def no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def check(value: Any, location: tuple[str | int, ...] = ()) -> None:
    """Depth, and texts that are Unicode: an escape may be half of a character."""
    if len(location) > JSON_DEPTH:
        raise bad(str(location[0]), f"nested deeper than {JSON_DEPTH}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise bad(place(location), "has half of a surrogate pair") from None
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise bad(place(location), "a number that is too large")
    elif isinstance(value, dict):
        for name, member in value.items():
            check(name, location)
            check(member, (*location, name))
    elif isinstance(value, list):
        for i, element in enumerate(value):
            check(element, (*location, i))


def parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body.decode(), object_pairs_hook=once, parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise bad(None, f"the body is no UTF-8: byte {error.start}") from None
    except RecursionError:
        raise bad(None, f"the body is nested deeper than {JSON_DEPTH}") from None
    except ValueError as error:
        raise bad(None, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad(None, "the body: expected an object")
    check(value)
    return value
