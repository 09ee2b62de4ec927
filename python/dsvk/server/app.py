"""The application: which path leads where, and what every response has in common."""
from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import dsvk

from . import body, chat_completions, completions, limits, messages, names, openapi, page, responses
from .answer import Answer
from .door import Door
from .engine import Engine, submitted
from .errors import ApiError, internal, of_engine, unavailable
from .keeper import Keeper
from .metrics import CONTENT_TYPE
from .stream import EventStream, Json, while_connected

PREFIXES = ("/v1", "", "/beta", "/beta/v1")
MESSAGES = ("/v1/messages", "/anthropic/v1/messages")
GENERATING = {chat_completions: [prefix + "/chat/completions" for prefix in PREFIXES],
              completions: [prefix + "/completions" for prefix in PREFIXES],
              responses: ["/v1/responses", "/responses"], messages: MESSAGES}
COUNTING = [path + "/count_tokens" for path in MESSAGES]
READING = ("/health", "/ready", "/metrics", "/status", "/openapi.json")
MODELS = ("/v1/models", "/models", "/beta/models", "/anthropic/v1/models")
ROOTS = ("/v1", "/anthropic")      # "/" is the page


def written(request: Request, error: ApiError) -> tuple[int, dict[str, Any]]:
    return error.written(request.url.path, request.scope["request_id"])


def failed(request: Request, error: ApiError) -> Response:
    """A body that was not read to its end is in the way of what comes behind it."""
    if error.status in (408, 413):
        error.headers["Connection"] = "close"
    status, body = written(request, error)
    return Json(body, status, headers=error.headers)


def unrouted(request: Request, error: HTTPException) -> Response:
    """What the router says: 404 and 405."""
    said = ApiError(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}",
                    code="not_found" if error.status_code == 404 else "invalid_request_error", headers=dict(error.headers or {}))
    return failed(request, said)


def gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)      # nobody reads it


def crashed(request: Request, error: Exception) -> Response:
    """The server ends the connection of a request that it gave up, so it has to say so."""
    said = internal()
    said.headers["Connection"] = "close"
    return failed(request, said)


def application(held: Engine | Keeper, keys: Sequence[str] = (), hosts: Sequence[str] = (), origins: Sequence[str] = (),
                body_bytes: int = limits.BODY_BYTES) -> Door:
    """The ASGI application over an engine, which its shutdown closes, or over what keeps one. keys: one of them is needed on every path
    but /health and the page's; none: no key is. hosts: names besides the loopback's under which clients may ask. origins: of web pages
    that may besides the server's own, "https://page.example". body_bytes: most of a request."""

    readers = body.Readers()

    def generating(dialect: Any) -> Callable[[Request], Awaitable[Response]]:
        async def generate(request: Request) -> Response:
            text = await body.read(request, body_bytes)

            def begin() -> tuple[int, dict[str, Any], Engine, Any]:
                engine, plain = held.current, body.plain(text)
                given = body.parse(plain)
                return len(plain), given, engine, dialect.read(engine, given)

            size, given, engine, read = await readers.run(len(text.data), begin)
            asked = submitted(engine, readers.of(size), lambda: dialect.job_of(engine, given, read))
            job, running = await while_connected(request.receive, asked)
            answer = Answer(engine, job, running)
            reply = dialect.Reply(engine, read, job, answer)

            def with_usage(error: ApiError) -> ApiError:
                error.usage = dialect.usage_of(answer.usage)
                return error

            if read.stream:
                return EventStream(reply, lambda error: written(request, with_usage(error))[1], running.cancel)
            try:
                return Json(await while_connected(request.receive, reply.whole()))
            except ApiError as error:
                raise with_usage(error)
            finally:
                running.cancel()
        return generate

    async def count_tokens(request: Request) -> Response:
        text = await body.read(request, body_bytes)

        def begin() -> tuple[int, Engine, messages.CountRequest]:
            engine, plain = held.current, body.plain(text)
            return len(plain), engine, messages.read_as(messages.CountRequest, engine, body.parse(plain))

        size, engine, read = await readers.run(len(text.data), begin)
        counted = readers.run(size, lambda: len(messages.prompt_of(engine, read, counted=True)))
        return Json({"input_tokens": await while_connected(request.receive, counted)})

    async def models(request: Request) -> Response:
        return Json(names.listing(held.current))

    async def model(request: Request) -> Response:
        names.require(held.current, request.path_params["id"])
        return Json(names.item(held.current))

    async def health(request: Request) -> Response:
        return Json({"status": "ok"})

    async def ready(request: Request) -> Response:
        engine = held.current
        if not engine.ready:
            raise unavailable("the scheduler is closed")
        return Json({"status": "ready", "model": engine.name})

    async def metrics(request: Request) -> Response:
        return Response(await asyncio.to_thread(held.current.metrics.text), media_type=CONTENT_TYPE)

    async def description(request: Request) -> Response:
        return Json(openapi.describe({**{dialect.REQUEST: paths for dialect, paths in GENERATING.items()},
                                      messages.CountRequest: COUNTING}, ("/v1/models", *READING)))

    async def status(request: Request) -> Response:
        return Json(await asyncio.to_thread(held.current.status))

    async def root(request: Request) -> Response:
        return Response()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await door.empty(limits.FAREWELL_SECONDS)
        await asyncio.to_thread(held.close)
        readers.close()

    routes = [Route(path, generating(dialect), methods=["POST"]) for dialect, paths in GENERATING.items() for path in paths]
    routes += [Route(path, count_tokens, methods=["POST"]) for path in COUNTING]
    for path in MODELS:
        routes += [Route(path, models), Route(path + "/{id:path}", model)]
    routes += [Route(path, handler) for path, handler in zip(READING, (health, ready, metrics, status, description))]
    routes += [Route(path, page.page) for path in page.FILES]
    routes += [Route(path, root, methods=["HEAD"]) for path in ROOTS]
    def of_device(request: Request, error: dsvk.Error) -> Response:
        """Closed, or lost, between two looks at it."""
        return failed(request, of_engine(error))

    handlers: dict[Any, Any] = {ApiError: failed, dsvk.Error: of_device, HTTPException: unrouted, ClientDisconnect: gone,
                                Exception: crashed}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    door = Door(app, failed, keys, hosts, origins)
    return door
