"""POST /v1/responses: OpenAI's Responses format. A request is written down as one of the chat format and goes its way; only items,
tools under a namespace and the events of the answer are this format's own."""
from __future__ import annotations

import json
import re
import secrets
import time
from typing import Annotated, Any, Iterator, Literal

from pydantic import BeforeValidator, PrivateAttr

from dsvk.constrain import Constraint

from . import chat_completions, items, stream
from .answer import Answer, Piece, Usage
from .engine import Engine, Job
from .errors import ApiError, bad
from .fields import Effort, Fields, Sampled, validated
from .items import Offered, Tool
from .limits import EFFORT, Tokens, TopLogprobs
from .openai_format import logprobs_of

ENDED = {"length": "incomplete", "context": "incomplete", "resource": "failed"}
TEXTS = {"reasoning": "reasoning_text", "content": "output_text"}      # kinds of pieces and of parts
LOGPROBS = "message.output_text.logprobs"


def text_or_items(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        return value
    raise ValueError("expected text or a list of items, which are objects")


def choice(value: Any) -> Any:
    """As the chat format has it."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ValueError('expected "none", "auto", "required", or an object with a type')
    if value["type"] not in ("function", "custom"):
        raise ValueError(f"a tool of type {value['type'][:40]!r} is not offered here")
    if not isinstance(value.get("name"), str):
        raise ValueError("expected the tool's name in its field name")
    namespace = value.get("namespace")
    if namespace is not None and not isinstance(namespace, str):
        raise ValueError("expected the tool's namespace in its field namespace")
    return {"type": "function", "function": {"name": items.qualified(namespace, value["name"])}}


class Reasoning(Fields):
    effort: Effort = EFFORT
    summary: Any = None


class Format(Fields):
    """The rest is read as the chat format has it."""
    type: Literal["text", "json_object", "json_schema"]


class Text(Fields):
    format: Format | None = None
    verbosity: Any = None


class ResponsesRequest(Sampled):
    _offered: list[Offered] = PrivateAttr([])
    _chat: chat_completions.ChatRequest = PrivateAttr()
    _chat_body: dict[str, Any] = PrivateAttr()
    _body: dict[str, Any] = PrivateAttr()      # as the client wrote it
    input: Annotated[str | list[dict[str, Any]] | None, BeforeValidator(text_or_items)] = None
    instructions: str | None = None
    tools: list[Tool] = []
    tool_choice: Annotated[Any, BeforeValidator(choice)] = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    text: Text = Text()
    max_output_tokens: Tokens | None = None
    top_logprobs: TopLogprobs = 0
    include: list[str] = []
    metadata: dict[str, Any] = {}
    prompt_cache_key: Any = None
    user_id: str | None = None
    user: str | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: bool = False
    prompt: Any = None


def text_or(other: str | None, given: Any) -> str | None:
    """What is ignored and told back, if a client can read it."""
    return given if isinstance(given, str) else other


def refuse(r: ResponsesRequest) -> None:
    """What the types don't say."""
    for name in ("previous_response_id", "conversation", "prompt"):
        if getattr(r, name) is not None:
            raise bad(name, "not supported: nothing is stored here, give the whole input")
    if r.background:
        raise bad("background", "not supported: nothing is stored here that could be asked for later")
    if r.input is None and r.instructions is None:
        raise bad("input", "required, or instructions")


def chat_body(body: dict[str, Any], r: ResponsesRequest) -> dict[str, Any]:
    """The request as one of the chat format; its messages follow."""
    format = (body.get("text") or {}).get("format") or {"type": "text"}
    schema = {name: value for name, value in format.items() if name != "type"} if format["type"] == "json_schema" else None
    return {**{name: body.get(name) for name in Sampled.model_fields}, "messages": [{"role": "user", "content": ""}],
            "tools": [tool.function() for tool in r._offered], "tool_choice": r.tool_choice,
            "parallel_tool_calls": r.parallel_tool_calls, "reasoning_effort": r.reasoning.effort,
            "response_format": {"type": format["type"], **({} if schema is None else {"json_schema": schema})},
            "logprobs": LOGPROBS in r.include, "top_logprobs": r.top_logprobs if LOGPROBS in r.include else None,
            "max_tokens": r.max_output_tokens, "user_id": r.user_id, "user": r.user}


def renamed(error: ApiError, r: ResponsesRequest) -> ApiError:
    """A field of the chat format under the name that it has here."""
    here = [(f"tools[{i}].function", tool.place) for i, tool in enumerate(r._offered)]
    here += [(f"tools[{i}]", tool.place) for i, tool in enumerate(r._offered)]
    here += [("tool_choice.function", "tool_choice"), ("response_format.json_schema", "text.format"), ("response_format", "text.format"),
             ("reasoning_effort", "reasoning.effort"), ("messages", "input")]
    for theirs, ours in here:
        if error.param is not None and error.param.startswith(theirs):
            param = ours + error.param.removeprefix(theirs)
            if error.message.startswith(f"{error.param}: "):
                error.message = param + error.message.removeprefix(error.param)
            error.param = param
            break
    return error


REQUEST = ResponsesRequest


def read(engine: Engine, body: dict[str, Any]) -> ResponsesRequest:
    r = validated(ResponsesRequest, engine, body)
    refuse(r)
    r._body, r._offered = body, list(items.offered(r.tools))
    r._chat_body = chat_body(body, r)
    try:
        r._chat = chat_completions.read(engine, r._chat_body)
    except ApiError as error:
        raise renamed(error, r) from None
    for mine, theirs in zip(r._offered, r._chat.tools):
        theirs._text = mine.text
    r._chat.messages = items.conversation(engine, r.instructions, r.input)
    return r


def job_of(engine: Engine, body: dict[str, Any], r: ResponsesRequest) -> Job:
    try:
        job = chat_completions.job_of(engine, r._chat_body, r._chat)
    except ApiError as error:
        raise renamed(error, r) from None
    job.prompt_field = "input"
    if (compiled := job.constraint) is not None:
        def constraint() -> Constraint | None:
            try:
                return compiled()
            except ApiError as error:
                raise renamed(error, r) from None
        job.constraint = constraint
    return job


# ---- what goes out ----

def usage_of(u: Usage) -> dict[str, Any]:
    return {"input_tokens": u.prompt, "input_tokens_details": {"cached_tokens": u.cached, "cache_write_tokens": 0},
            "output_tokens": u.completion, "output_tokens_details": {"reasoning_tokens": u.reasoning},
            "total_tokens": u.prompt + u.completion}


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


class FreeText:
    """The text of a custom tool's call, out of the JSON of its one argument as it comes."""
    WHOLE = re.compile(r'(?:[^"\\]|\\(?:[^uU]|u(?![dD][89abAB])[0-9a-fA-F]{4}|u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}))*')
    BEGIN = '{"input": "'

    def __init__(self) -> None:
        self.json, self.at, self.text = "", len(self.BEGIN), ""

    def feed(self, more: str) -> str:
        """Its text, as far as it is whole."""
        self.json += more
        if len(self.json) <= len(self.BEGIN) or not self.json.startswith(self.BEGIN):
            return ""
        found = self.WHOLE.match(self.json, self.at)
        assert found is not None      # it matches nothing, too
        self.at = found.end()
        new: str = json.loads(f'"{found[0]}"', strict=False)
        self.text += new
        return new

    def rest(self) -> str:
        """In the end: what a model wrote that did not keep to the one argument."""
        arguments = json.loads(self.json or "{}")
        given = arguments["input"] if "input" in arguments else next(iter(arguments.values()), "")
        whole = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        new = whole.removeprefix(self.text)
        self.text += new
        return new


class Reply(stream.Reply):
    """Writes an answer down in this format. The whole response is that of the stream's last event."""
    named_events = True

    def __init__(self, engine: Engine, r: ResponsesRequest, job: Job, answer: Answer):
        self.engine, self.r, self.answer = engine, r, answer
        self.id, self.created, self.sequence = new_id("resp_"), int(time.time()), 0
        self.names = {tool.name: tool for tool in r._offered}
        self.output: list[dict[str, Any]] = []
        self.item: dict[str, Any] = {}      # the one that is being written, of a piece's kind, and what it has; empty: none
        self.kind = self.text = ""
        self.logprobs: list[dict[str, Any]] = []
        thinking, effort = r._chat.mode
        format = (r._body.get("text") or {}).get("format")
        self.asked = {
            "instructions": r.instructions, "max_output_tokens": r.max_output_tokens, "parallel_tool_calls": r.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": "none" if not thinking else "max" if effort == "ultra" else effort,
                          "summary": text_or(None, r.reasoning.summary)},
            "store": False, "temperature": r.temperature, "top_p": r.top_p, "top_logprobs": r.top_logprobs,
            "text": {"format": format or {"type": "text"}, "verbosity": text_or("medium", r.text.verbosity)},
            "tool_choice": r._body.get("tool_choice") or "auto", "tools": r._body.get("tools") or [],
            "truncation": "disabled", "user": r.user, "metadata": r.metadata, "background": False, "service_tier": "default",
            "max_tool_calls": None, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "prompt_cache_key": text_or(None, r.prompt_cache_key), "safety_identifier": None}

    # ---- events ----

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": f"response.{kind}", "sequence_number": self.sequence, **fields}
        self.sequence += 1
        return event

    def response(self, status: str = "in_progress", **ended: Any) -> dict[str, Any]:
        return {"id": self.id, "object": "response", "created_at": self.created, "completed_at": None, "status": status,
                "model": self.engine.name, "output": [], "error": None, "incomplete_details": None, "usage": None, **self.asked,
                **ended}

    def alive(self) -> dict[str, Any]:
        return self.event("in_progress", response=self.response())

    def failed(self, error: ApiError, written: dict[str, Any]) -> dict[str, Any]:
        return self.event("failed", response=self.response("failed", error={"code": error.code, "message": error.message},
                                                           output=self.output, usage=usage_of(self.answer.usage)))

    def at(self) -> dict[str, Any]:
        return {"item_id": self.item["id"], "output_index": len(self.output)}

    def part(self) -> dict[str, Any]:
        more = {"annotations": [], "logprobs": self.logprobs} if self.kind == "content" else {}
        return {"type": TEXTS[self.kind], "text": self.text, **more}

    def told(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"content_index": 0, **({"logprobs": logprobs} if self.kind == "content" else {})}

    def new_item(self, piece: Piece) -> dict[str, Any]:
        head = {"status": "in_progress"}
        if piece.kind == "reasoning":
            return {"type": "reasoning", "id": new_id("rs_"), **head, "summary": [], "content": [], "encrypted_content": None}
        if piece.kind == "content":
            return {"type": "message", "id": new_id("msg_"), **head, "role": "assistant", "content": []}
        tool = self.names.get(piece.text)
        name = {"call_id": piece.id, "name": tool.tool.name if tool else piece.text,
                **({"namespace": tool.namespace} if tool and tool.namespace else {})}
        if tool and tool.custom:
            return {"type": "custom_tool_call", "id": new_id("ctc_"), **head, **name, "input": ""}
        return {"type": "function_call", "id": new_id("fc_"), **head, **name, "arguments": ""}

    def begin(self, piece: Piece) -> Iterator[dict[str, Any]]:
        self.item, self.kind, self.text, self.logprobs = self.new_item(piece), piece.kind, "", []
        self.free = FreeText() if self.item["type"] == "custom_tool_call" else None
        yield self.event("output_item.added", output_index=len(self.output), item=dict(self.item))
        if self.kind in TEXTS:
            yield self.event("content_part.added", **self.at(), content_index=0, part=self.part())

    def more(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if self.kind in TEXTS:
            found = logprobs_of(self.engine, piece.logprobs.get("content", []))
            self.text, self.logprobs = self.text + piece.text, self.logprobs + found
            yield self.event(f"{TEXTS[self.kind]}.delta", **self.at(), **self.told(found), delta=piece.text)
        elif self.free is not None:
            yield from self.free_delta(self.free.feed(piece.text))
        else:
            self.item["arguments"] += piece.text
            yield self.event("function_call_arguments.delta", **self.at(), delta=piece.text)

    def free_delta(self, text: str) -> Iterator[dict[str, Any]]:
        if text:
            self.item["input"] += text
            yield self.event("custom_tool_call_input.delta", **self.at(), delta=text)

    def end(self, status: str, phase: str) -> Iterator[dict[str, Any]]:
        if self.kind in TEXTS:
            yield self.event(f"{TEXTS[self.kind]}.done", **self.at(), **self.told(self.logprobs), text=self.text)
            self.item["content"] = [self.part()]
            yield self.event("content_part.done", **self.at(), content_index=0, part=self.part())
        elif self.free is not None:
            yield from self.free_delta(self.free.rest())
            yield self.event("custom_tool_call_input.done", **self.at(), input=self.item["input"])
        else:
            yield self.event("function_call_arguments.done", **self.at(), name=self.item["name"], arguments=self.item["arguments"])
        if self.kind == "content":
            self.item["phase"] = phase
        self.item["status"] = status
        yield self.event("output_item.done", output_index=len(self.output), item=self.item)
        self.output.append(self.item)
        self.item = {}

    def last(self, status: str) -> dict[str, Any]:
        endings: dict[str, dict[str, Any]] = {
            "incomplete": {"incomplete_details": {"reason": "max_output_tokens"}},
            "failed": {"error": {"code": "server_error", "message": "memory or the device went away"}},
            "completed": {"completed_at": int(time.time())}}
        return self.event(status, response=self.response(status, output=self.output, usage=usage_of(self.answer.usage),
                                                  **endings[status]))

    def written(self, piece: Piece) -> Iterator[dict[str, Any]]:
        status = ENDED.get(piece.finish, "completed")
        if self.item and (piece.kind in ("call", "finish") or (piece.kind in TEXTS and piece.kind != self.kind)):
            yield from self.end("incomplete" if status == "failed" else status, "commentary" if piece.kind == "call" else "final_answer")
        if piece.kind == "finish":
            yield self.last(status)
        elif piece.kind == "call":
            yield from self.begin(piece)
        elif piece.kind != "start":
            if not self.item:
                yield from self.begin(piece)
            yield from self.more(piece)

    async def events(self) -> stream.Events:
        yield self.event("created", response=self.response())
        yield self.alive()
        async for piece in self.answer.pieces():
            for event in self.written(piece):
                yield event

    async def whole(self) -> dict[str, Any]:
        async for event in self.events():
            pass
        response: dict[str, Any] = event["response"]
        return response
