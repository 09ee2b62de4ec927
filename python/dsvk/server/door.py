"""In front of every route: tells each request's id, and turns away who has no key, and what another web page made a browser send."""
from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from typing import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import limits, page
from .errors import ApiError, unavailable
from .limits import HEAD_FIELDS

PREFLIGHT = {"access-control-allow-methods": "GET, POST, HEAD", "access-control-max-age": "600",
             "access-control-allow-headers": "authorization, *"}

HEALTH = "/health"
BEARER, BASIC = "Bearer", 'Basic realm="dsvk, the API key is the password", charset="UTF-8"'      # by Basic a browser knows to ask


class Door:
    """failed(request, error): writes an error down. keys, hosts, origins: as in application."""

    def __init__(self, app: ASGIApp, failed: Callable[[Request, ApiError], Response], keys: Sequence[str], hosts: Sequence[str],
                 origins: Sequence[str]):
        self.app, self.failed = app, failed
        self.keys = [digest(key) for key in keys]
        self.hosts = {host.lower() for host in hosts}
        self.origins = {origin.lower() for origin in origins}
        self.inside = 0      # requests

    async def empty(self, seconds: float) -> None:
        """Waits for the requests inside to end, for so long at most."""
        end = asyncio.get_running_loop().time() + seconds
        while self.inside and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.inside += 1
        try:
            await self.enter(scope, receive, send)
        finally:
            self.inside -= 1

    async def enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = scope["request_id"] = new_id()
        request = Request(scope, receive)
        shared = self.shared(request)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *id_headers(id), *shared]
            await send(message)

        asks = bool(shared) and request.method == "OPTIONS"      # a browser, whether its page may; it has no key yet
        refused = self.refusal(request, asks)
        if refused is None and asks:
            await Response(status_code=204, headers=PREFLIGHT)(scope, receive, named)
        else:
            await (self.failed(request, refused) if refused else self.app)(scope, receive, named)

    def shared(self, request: Request) -> list[tuple[bytes, bytes]]:
        """What a browser needs to see to hand the answer to a page of a known origin."""
        origin = request.headers.get("origin", "").lower()
        if origin not in self.origins:
            return []
        return [(b"access-control-allow-origin", origin.encode()), (b"access-control-expose-headers", b"request-id, retry-after"),
                (b"vary", b"origin")]

    def refusal(self, request: Request, asks: bool) -> ApiError | None:
        if self.inside > limits.REQUESTS and request.url.path != HEALTH:
            return unavailable(f"more than {limits.REQUESTS} requests at once")
        hosts = request.headers.getlist("host")
        if len(hosts) != 1:
            return ambiguous("host", f"expected one Host header, got {len(hosts)}")
        if len(request.headers.items()) > HEAD_FIELDS:
            return ambiguous(None, f"at most {HEAD_FIELDS} header fields, got {len(request.headers.items())}")
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            return ambiguous("content-length", "the body's end is told twice")
        name = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:]*)(:\d*)?", hosts[0].lower())
        if name is None or not (loopback(name[1].strip("[]")) or name[1].strip("[]") in self.hosts):
            return forbidden("host", f"not served under this name: {hosts[0][:80]!r}")
        own = f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"
        for origin in request.headers.getlist("origin"):
            if origin.lower() not in own and origin.lower() not in self.origins:
                return forbidden("origin", f"no page of this one may ask: {origin[:80]!r}")
        if self.keys and request.url.path != HEALTH and not asks and not self.known(request):
            return ApiError(401, "authorization: the API key is missing or wrong", type="authentication_error", code="invalid_api_key",
                            headers={"WWW-Authenticate": BASIC if request.url.path in page.FILES else BEARER})
        return None

    def known(self, request: Request) -> bool:
        """Every key is compared in full, so that time tells nothing."""
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        given = [request.headers.get("x-api-key", "")]
        if scheme.lower() == "bearer":
            given.append(credentials.strip())
        elif scheme.lower() == "basic":
            given.append(password(credentials))
        return sum(hmac.compare_digest(digest(one), key) for one in given for key in self.keys) > 0


def password(credentials: str) -> str:
    """Of RFC 7617, in which a browser gives the key for the page; whatever name is with it. Empty if there is none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def new_id() -> str:
    """Of a request."""
    return secrets.token_hex(12)


def id_headers(id: str) -> list[tuple[bytes, bytes]]:
    return [(b"request-id", id.encode()), (b"x-request-id", id.encode())]


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def ambiguous(header: str | None, message: str) -> ApiError:
    """What another program in between might have read otherwise."""
    return ApiError(400, f"{header}: {message}" if header else message, param=header, headers={"Connection": "close"})


def forbidden(header: str, message: str) -> ApiError:
    return ApiError(403, f"{header}: {message}", code="forbidden", param=header)


def loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
