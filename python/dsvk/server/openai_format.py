"""What OpenAI's formats write alike."""
from __future__ import annotations

import secrets
import time
from typing import Any

from .answer import Logprob, Usage
from .engine import Engine

FINISH = {"stop": "stop", "length": "length", "context": "length", "calls": "tool_calls",
          "resource": "insufficient_system_resource"}


def head(engine: Engine, prefix: str, kind: str) -> dict[str, Any]:
    return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": engine.name,
            "system_fingerprint": engine.fingerprint}


def token_bytes(engine: Engine, id: int) -> bytes:
    """Nothing for an id that no token has."""
    try:
        return engine.tokenizer.decode_bytes([id])
    except ValueError:
        return b""


def logprobs_of(engine: Engine, found: list[Logprob]) -> list[dict[str, Any]]:
    def token(id: int, value: float | None) -> dict[str, Any]:
        text = token_bytes(engine, id)
        return {"token": text.decode(errors="replace"), "bytes": list(text), "logprob": value}

    return [{**token(one.id, one.value), "top_logprobs": [token(*top) for top in one.top]} for one in found]


def usage_of(u: Usage) -> dict[str, Any]:
    return {"prompt_tokens": u.prompt, "completion_tokens": u.completion, "total_tokens": u.prompt + u.completion,
            "prompt_cache_hit_tokens": u.cached, "prompt_cache_miss_tokens": u.prompt - u.cached,
            "prompt_tokens_details": {"cached_tokens": u.cached},
            "completion_tokens_details": {"reasoning_tokens": u.reasoning}}
