"""The description of the server that /openapi.json gives, made of the models that read requests."""
from __future__ import annotations

from typing import Any, Iterable, Mapping

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import dsvk

ERRORS = {400: "a field is wrong, the message names it", 401: "the key is missing or wrong", 404: "unknown model",
          413: "the body is too large", 415: "no JSON", 429: "too many wait", 503: "not now"}


def describe(generating: Mapping[type[BaseModel], Iterable[str]], reading: Iterable[str]) -> dict[str, Any]:
    """generating: what is POSTed, and where; reading: what is GET."""
    schemas, definitions = models_json_schema([(model, "validation") for model in generating],
                                              ref_template="#/components/schemas/{model}")
    failures = {str(status): {"description": text} for status, text in ERRORS.items()}
    paths: dict[str, Any] = {path: {"get": {"responses": {"200": {"description": "what was asked for"}}}} for path in reading}
    for model, places in generating.items():
        for path in places:
            paths[path] = {"post": {
                "requestBody": {"required": True, "content": {"application/json": {"schema": schemas[model, "validation"]}}},
                "responses": {"200": {"description": "the answer, or its events"}, **failures}}}
    return {"openapi": "3.1.0", "info": {"title": "dsvk", "version": dsvk.__version__}, "paths": paths,
            "components": {"schemas": definitions.get("$defs", {})}}
