"""The HTTP server: one model, OpenAI's chat wire format, over dsvk.Scheduler.

    from dsvk.server import Engine, application
    app = application(Engine(dsvk.Model("nano"), name="nano"))      # any ASGI server runs it; `dsvk serve` uses uvicorn

A request is read and checked in chat_completions.py, becomes a prompt in history.py, runs as the pieces of answer.py, which
know nothing of wire formats, and goes out by stream.py. Needs the extra: pip install "dsvk[server]".
"""
from .app import application
from .engine import Engine

__all__ = ["Engine", "application"]
