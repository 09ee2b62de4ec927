"""The web page: the files in page/, which ask nothing of anybody but this server."""
from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from .errors import ApiError

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin", "cache-control": "no-cache"}
START = "index.html"


def load() -> dict[str, tuple[bytes, str]]:
    """By path below the server's root: each file and its type."""
    found = {}
    for file in (files("dsvk.server") / "page").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind:
            found["/" if file.name == START else f"/page/{file.name}"] = file.read_bytes(), f"{kind}; charset=utf-8"
    return found


FILES = load()


def wants_html(accept: str) -> bool:
    return not accept or any(kind in accept for kind in ("text/html", "text/*", "*/*"))


async def page(request: Request) -> Response:
    """GET of one of FILES. HEAD, which agents probe a base address with, gets 200 and nothing."""
    if request.method == "HEAD":
        return Response()
    if request.url.path == "/" and not wants_html(request.headers.get("accept", "")):
        raise ApiError(406, "accept: this is a web page; the API is below /v1", param="accept")
    content, kind = FILES[request.url.path]
    return Response(content, media_type=kind, headers=HEADERS)
