"""What a request's tools, its tool choice and its response format make of the answer: one constraint, for every wire format."""
from __future__ import annotations

from typing import Any, Collection, Sequence

import dsvk
from dsvk.constrain import Constraint, GrammarError
from dsvk.dsml import Tool

from .engine import Compile, Engine
from .errors import bad

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}      # of a tool without parameters: held to where that can be


def constraint_for(engine: Engine, tools: Sequence[Tool], *, choice: str = "auto", names: Collection[str] | None = None,
                   parallel: bool = True, schema: dict[str, Any] | None = None, inside: bool = False, begun: str = "",
                   choice_place: str = "tool_choice", schema_place: str = "response_format") -> Compile | None:
    """For Job.constraint; None when the answer is free, which the call may give, too.

    tools: those of the prompt; the schema of a strict tool, none of another; a custom tool has text, of its grammar or, without
    one, ("regex", "(?s:.*)"). choice: "none", "auto" or
    "required"; names: the tools that may be called, None for all. parallel: several calls are allowed. schema: of the answer
    when it is JSON. inside: the answer begins inside thinking. begun: what stands of the answer already. The places are what
    errors call the fields. It raises ApiError 400 for what cannot be held to, and, for what has to be, when llguidance is missing.
    """
    callable_tools = [] if choice == "none" else [tool for tool in tools if names is None or tool.name in names]
    if not callable_tools and schema is None:
        return None
    held = [tool.place for tool in callable_tools if tool.text is not None or (tool.schema is not None and tool.schema is not NO_ARGUMENTS)]

    def compiled() -> Constraint | None:
        try:
            return engine.grammars.answer(callable_tools, must_call=choice == "required", parallel=parallel, schema=schema,
                                          thinking=inside, begun=begun, place=schema_place if schema is not None else choice_place)
        except GrammarError as error:
            raise bad(error.place or None, error.sentence) from None
        except dsvk.UnsupportedError as error:
            if schema is not None:
                raise bad(schema_place, str(error)) from None
            if choice == "required" or names is not None:
                raise bad(choice_place, str(error)) from None
            if held:
                raise bad(held[0], str(error)) from None
            return None      # free, as well as the model does it

    return compiled


def tool(name: str, parameters: dict[str, Any] | None, strict: bool, place: str) -> Tool:
    """A function for constraint_for. place: what errors call its parameters. Without parameters there are no arguments."""
    return Tool(name, (parameters or {**NO_ARGUMENTS}) if strict else NO_ARGUMENTS if parameters is None else None, place=place)
