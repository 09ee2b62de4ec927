"""The HTTP server: one model, four wire formats and a web page, over dsvk.Scheduler.

    from dsvk.server import Engine, application
    app = application(Engine(dsvk.Model("nano"), name="nano"))      # any ASGI server runs it; connections.py has uvicorn's

A request is read and checked in chat_completions.py, completions.py, responses.py or messages.py, runs as the pieces of answer.py, which
know nothing of wire formats, is written down in its format again, and goes out by stream.py. history.py makes prompts of
conversations. Needs the extra: pip install "dsvk[server]".
"""
from .app import application
from .engine import Engine
from .keeper import Keeper

__all__ = ["Engine", "Keeper", "application"]
