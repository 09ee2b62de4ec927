"""POST /v1/chat/completions: OpenAI's chat format, with thinking as DeepSeek's own API has it."""
from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from dsvk import dsml

from . import history, stream
from .answer import Answer, Logprob, Piece
from .constraints import constraint_for, tool
from .engine import Engine, Job
from .errors import bad
from .fields import Effort, Generated, Message, ResponseFormat, Thinking, Tool, ToolChoice, ToolChoiceField, mode, validated
from .limits import EFFORT, MOST_TOOLS, Tokens, TopLogprobs
from .openai_format import FINISH, head, logprobs_of, usage_of


PROMPTED = ("name", "description", "parameters")      # members of a function that stand in the prompt


class ChatRequest(Generated):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    thinking: Thinking | None = None
    reasoning_effort: Effort = EFFORT
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] = []
    tool_choice: ToolChoiceField = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] = []
    audio: Any = None

    @property
    def mode(self) -> tuple[bool, str]:
        return mode(self.model, self.thinking, self.reasoning_effort)

    @property
    def thinks(self) -> bool:
        return self.mode[0]


REQUEST = ChatRequest


def read(engine: Engine, body: dict[str, Any]) -> ChatRequest:
    request = validated(ChatRequest, engine, body)
    request.check_ids(engine)
    refuse(request)
    for i, message in enumerate(request.messages):
        message._place, message._id_place = f"messages[{i}]", f"messages[{i}].tool_call_id"
        for k, call in enumerate(message.tool_calls):
            call._place = f"messages[{i}].tool_calls[{k}].id"
    return request


def refuse(r: ChatRequest) -> None:
    """What the types don't say."""
    for name in ("functions", "function_call"):
        if getattr(r, name) is not None:
            raise bad(name, "not supported: use tools and tool_choice")
    if r.audio is not None:
        raise bad("audio", "this model reads and writes text only")
    if any(kind != "text" for kind in r.modalities):
        raise bad("modalities", "this model reads and writes text only")
    if r.top_logprobs is not None and not r.logprobs:
        raise bad("top_logprobs", "needs logprobs to be true")
    refuse_tools(r)


def refuse_tools(r: ChatRequest) -> None:
    seen: set[str] = set()
    for i, offer in enumerate(r.tools):
        if offer.function.name in seen:
            raise bad(f"tools[{i}].function.name", f"{offer.function.name!r} appears twice")
        seen.add(offer.function.name)
    for name in r.tool_choice.names or ():
        if name not in seen:
            raise bad("tool_choice", f"no tool is named {name[:80]!r}")
    if r.tool_choice.mode == "required" and not r.tools:
        raise bad("tool_choice", "required without tools")


def offered(body: dict[str, Any], r: ChatRequest) -> list[dict[str, Any]]:
    """The tools in the order in which the client wrote their members, because the prompt repeats their JSON. `strict` is no part of it:
    it says how the answer is held, and each wire format says so in its own way."""
    if r.tool_choice.mode == "none":
        return []
    return [{"type": "function", "function": {name: value for name, value in tool["function"].items()
                                              if name in PROMPTED and value is not None}} for tool in body.get("tools") or []]


def held(offer: Tool, place: str) -> dsml.Tool:
    function = offer.function
    if offer._text is not None:
        return dsml.Tool(function.name, text=offer._text, place=f"{place}.format.definition")
    return tool(function.name, function.parameters, function.strict, f"{place}.function.parameters")


def job_of(engine: Engine, body: dict[str, Any], r: ChatRequest) -> Job:
    tools = offered(body, r)
    thinking, effort = r.mode
    schema = r.response_format.schema_of_answer if r.response_format else None
    told = schema if r.response_format and r.response_format.type == "json_schema" else None
    prompt = history.prompt(engine, r.messages, tools, bool(r.tools), thinking, effort, told)
    inside, last = prompt[-1] == engine.tokenizer.id("<think>"), r.messages[-1]
    constraint = constraint_for(
        engine, [held(offer, f"tools[{i}]") for i, offer in enumerate(r.tools)], choice=r.tool_choice.mode,
        names=r.tool_choice.names, parallel=r.parallel_tool_calls, schema=schema, inside=inside,
        begun=last.content or "" if last.role == "assistant" else "",
        schema_place="response_format.json_schema.schema" if told is not None else "response_format")
    limits = [limit for limit in (r.max_tokens, r.max_completion_tokens) if limit is not None]
    return Job(prompt, thinking=thinking, inside=inside, max_tokens=min(limits, default=0),
               choices=r.n, sampling=r.sampling, stop=r.stop, logprobs=(r.top_logprobs or 0) if r.logprobs else None,
               calls=bool(tools), one_call=not r.parallel_tool_calls, progress=r.stream and r.stream_options.include_progress,
               constraint=constraint, user=r.user_id or r.user or "")


# ---- what goes out ----

class Reply(stream.Reply):
    """Writes an answer down in this format, whole or as a stream."""

    def __init__(self, engine: Engine, r: ChatRequest, job: Job, answer: Answer):
        self.engine, self.r, self.job, self.answer = engine, r, job, answer
        self.head = head(engine, "chatcmpl-", "chat.completion")

    def logprobs(self, found: dict[str, list[Logprob]]) -> dict[str, Any] | None:
        if not self.r.logprobs:
            return None
        return {"content": logprobs_of(self.engine, found.get("content", [])),
                "reasoning_content": logprobs_of(self.engine, found.get("reasoning", []))}

    # ---- whole ----

    async def whole(self) -> dict[str, Any]:
        choices = [Whole(self.job.thinking) for _ in range(self.job.choices)]
        async for piece in self.answer.pieces():
            choices[piece.choice].add(piece)
        return {**self.head, "choices": [{"index": i, "message": choice.message(), "logprobs": self.logprobs(choice.logprobs),
                                          "finish_reason": FINISH[choice.finish]} for i, choice in enumerate(choices)],
                "usage": usage_of(self.answer.usage)}

    # ---- a stream ----

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        told = {"usage": usage} if self.r.stream_options.include_usage else {}
        return {**self.head, "object": "chat.completion.chunk", "choices": choices, **told}

    def delta(self, piece: Piece) -> dict[str, Any]:
        thinking = self.job.thinking
        match piece.kind:
            case "start":
                return {"role": "assistant", "content": None, "reasoning_content": ""} if thinking else \
                    {"role": "assistant", "content": ""}
            case "reasoning":
                return {"content": None, "reasoning_content": piece.text}
            case "content":
                return {"content": piece.text, "reasoning_content": None} if thinking else {"content": piece.text}
            case "call":
                return {"tool_calls": [{"index": piece.call, "id": piece.id, "type": "function",
                                        "function": {"name": piece.text, "arguments": ""}}]}
            case "arguments":
                return {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]}
        return {}

    async def events(self) -> stream.Events:
        async for piece in self.answer.pieces():
            if piece.kind == "progress":
                usage = self.answer.usage
                yield {**self.chunk([]), "prompt_progress": {"total": usage.prompt, "cached": usage.cached, "done": usage.read}}
                continue
            logprobs = self.logprobs(piece.logprobs) if piece.logprobs else None
            yield self.chunk([{"index": piece.choice, "delta": self.delta(piece), "logprobs": logprobs,
                               "finish_reason": FINISH[piece.finish] if piece.kind == "finish" else None}])
        if self.r.stream_options.include_usage:
            yield self.chunk([], usage_of(self.answer.usage))


class Whole:
    """The message that the pieces of one choice make."""

    def __init__(self, thinking: bool):
        self.thinking, self.finish = thinking, ""
        self.texts: dict[str, list[str]] = {"reasoning": [], "content": []}
        self.calls: list[dict[str, Any]] = []
        self.logprobs: dict[str, list[Logprob]] = {}

    def add(self, piece: Piece) -> None:
        for place, found in piece.logprobs.items():
            self.logprobs.setdefault(place, []).extend(found)
        if piece.kind in self.texts:
            self.texts[piece.kind].append(piece.text)
        elif piece.kind == "call":
            self.calls.append({"index": piece.call, "id": piece.id, "type": "function",
                               "function": {"name": piece.text, "arguments": ""}})
        elif piece.kind == "arguments":
            self.calls[piece.call]["function"]["arguments"] += piece.text
        elif piece.kind == "finish":
            self.finish = piece.finish

    def message(self) -> dict[str, Any]:
        return {"role": "assistant", "content": "".join(self.texts["content"]),
                **({"reasoning_content": "".join(self.texts["reasoning"])} if self.thinking else {}),
                **({"tool_calls": self.calls} if self.calls else {})}
