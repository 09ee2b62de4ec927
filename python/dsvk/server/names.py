"""Model names: what is accepted for the one model that is served, and how it is listed."""
from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .errors import ApiError

if TYPE_CHECKING:
    from .engine import Engine

ALIASES = ("deepseek-v4-pro", "deepseek-v4-flash", "deepseek-flash", "deepseek-chat", "deepseek-reasoner")
WITHOUT_THINKING = "deepseek-chat"


def plain(name: str) -> str:
    return name.removesuffix("[1m]")


def known(engine: Engine, name: str) -> bool:
    return engine.any_model or plain(name) in (engine.name, *ALIASES) or name.startswith("claude-")


def require(engine: Engine, name: str) -> None:
    if not known(engine, name):
        raise ApiError(404, f"the model {name[:80]!r} does not exist; this server has {engine.name!r}", code="model_not_found",
                       param="model")


def item(engine: Engine) -> dict[str, Any]:
    """One entry for both dialects."""
    made = datetime.fromtimestamp(engine.created, timezone.utc)
    return {"id": engine.name, "object": "model", "created": engine.created, "owned_by": "dsvk", "type": "model",
            "display_name": engine.name, "created_at": made.strftime("%Y-%m-%dT%H:%M:%SZ"), "max_input_tokens": engine.context,
            "max_tokens": engine.most_tokens, "lifecycle": "active"}


def listing(engine: Engine) -> dict[str, Any]:
    return {"object": "list", "data": [item(engine)], "has_more": False, "first_id": engine.name, "last_id": engine.name}
