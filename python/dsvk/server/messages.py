"""POST /v1/messages: Anthropic's format. Its messages are turned into those of OpenAI's chat format, which make the prompt."""
from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from . import blocks, history, stream
from .answer import Answer, Piece, Usage
from .constraints import constraint_for, tool
from .engine import Compile, Engine, Job
from .errors import bad, unavailable
from .fields import Effort, Fields, Sampled, Thinking, mode, validated
from .limits import EFFORT, MOST_TOOLS, Stops, Tokens

STOP_REASON = {"stop": "end_turn", "length": "max_tokens", "calls": "tool_use", "context": "model_context_window_exceeded"}
SIGNED = {"type": "signature_delta", "signature": "dsvk"}      # thoughts need a signature; any is accepted back


class OutputFormat(Fields):
    type: Literal["json_schema"]
    definition: dict[str, Any] = Field(alias="schema")


class OutputConfig(Fields):
    effort: Effort = EFFORT
    format: OutputFormat | None = None


class ToolChoice(Fields):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Metadata(Fields):
    user_id: str = ""


def no_text(value: Any) -> Any:
    """OpenAI's formats have one stop text without a list, too."""
    if isinstance(value, str):
        raise ValueError("expected a list of texts, got a text")
    return value


class CountRequest(Fields):
    model: str
    messages: list[blocks.Message]
    system: blocks.Content = ""
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    tools: list[blocks.Tool] = []
    tool_choice: ToolChoice = ToolChoice(type="auto")


class MessagesRequest(CountRequest, Sampled):
    max_tokens: Tokens
    stop_sequences: Annotated[Stops, BeforeValidator(no_text)] = []
    metadata: Metadata = Metadata()


Counted = TypeVar("Counted", bound=CountRequest)


def read_as(kind: type[Counted], engine: Engine, body: dict[str, Any]) -> Counted:
    request = validated(kind, engine, body)
    if not request.messages:
        raise bad("messages", "is empty")
    refuse_tools(request)
    return request


REQUEST = MessagesRequest


def read(engine: Engine, body: dict[str, Any]) -> MessagesRequest:
    return read_as(MessagesRequest, engine, body)


def refuse_tools(r: CountRequest) -> None:
    blocks.check_tools(r.tools)
    offered = len(blocks.at_hand(r.tools))
    if offered > MOST_TOOLS:
        raise bad("tools", f"at most {MOST_TOOLS} offered at once, got {offered}")


def refuse_choice(r: CountRequest) -> None:
    names = [tool.name for tool in blocks.to_call(r.tools, r.messages)]
    if r.tool_choice.type == "tool" and (r.tool_choice.name is None or r.tool_choice.name not in names):
        raise bad("tool_choice.name", f"no tool is named {(r.tool_choice.name or '')[:80]!r}")
    if r.tool_choice.type == "any" and not names:
        raise bad("tool_choice", "any without tools")


def prompt_of(engine: Engine, r: CountRequest, counted: bool = False) -> list[int]:
    """counted: as in history.prompt."""
    messages = blocks.conversation(r.system, r.messages, r.tools)
    refuse_choice(r)
    tools = [] if r.tool_choice.type == "none" else [blocks.function(tool) for tool in blocks.at_hand(r.tools)]
    thinking, effort = mode(r.model, r.thinking, r.output_config.effort)
    return history.prompt(engine, messages, tools, bool(r.tools), thinking, effort, schema_of(r), counted)


def schema_of(r: CountRequest) -> dict[str, Any] | None:
    return None if r.output_config.format is None else r.output_config.format.definition


def begun(r: CountRequest) -> str:
    """What stands of the answer already."""
    last = r.messages[-1]
    return (blocks.assistant(last, "", True).content or "") if last.role == "assistant" else ""


def constraint_of(engine: Engine, r: CountRequest, inside: bool) -> Compile | None:
    known = blocks.to_call(r.tools, r.messages)
    wanted = r.tool_choice
    return constraint_for(
        engine, [tool(one.name or "", one.input_schema, one.strict, f"tools[{r.tools.index(one)}].input_schema") for one in known],
        choice={"auto": "auto", "none": "none"}.get(wanted.type, "required"), names=(wanted.name or "",) if wanted.type == "tool" else None,
        parallel=not wanted.disable_parallel_tool_use, schema=schema_of(r), inside=inside, begun=begun(r),
        schema_place="output_config.format.schema")


def job_of(engine: Engine, body: dict[str, Any], r: MessagesRequest) -> Job:
    prompt = prompt_of(engine, r)
    inside = prompt[-1] == engine.tokenizer.id("<think>")
    constraint = constraint_of(engine, r, inside)
    return Job(prompt, thinking=mode(r.model, r.thinking, r.output_config.effort)[0], inside=inside, max_tokens=r.max_tokens,
               sampling=r.sampling, stop=r.stop_sequences,
               calls=bool(r.tools) and r.tool_choice.type != "none", one_call=r.tool_choice.disable_parallel_tool_use,
               constraint=constraint,
               call_prefix="toolu_", user=r.metadata.user_id)


# ---- what goes out ----

def usage_of(u: Usage) -> dict[str, Any]:
    return {"input_tokens": u.prompt - u.cached, "cache_read_input_tokens": u.cached, "cache_creation_input_tokens": 0,
            "output_tokens": u.completion, "output_tokens_details": {"thinking_tokens": u.reasoning}}


def empty_block(piece: Piece) -> dict[str, Any]:
    """The empty block that a piece begins."""
    match piece.kind:
        case "reasoning":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "content":
            return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": piece.id, "name": piece.text, "input": {}}


def delta(piece: Piece) -> dict[str, Any]:
    match piece.kind:
        case "reasoning":
            return {"type": "thinking_delta", "thinking": piece.text}
        case "content":
            return {"type": "text_delta", "text": piece.text}
    return {"type": "input_json_delta", "partial_json": piece.text}


class Reply(stream.Reply):
    """Writes an answer down in this format. The whole message is put together from the stream's events."""
    named_events = True

    def __init__(self, engine: Engine, r: MessagesRequest, job: Job, answer: Answer):
        self.answer = answer
        self.message: dict[str, Any] = {"id": "msg_" + secrets.token_hex(12), "type": "message", "role": "assistant", "model": engine.name,
                        "content": [], "stop_reason": None, "stop_sequence": None}
        self.begun = False

    def alive(self) -> dict[str, Any]:
        """Nothing may come before the start: the first sign of life is it, and what is not known of usage yet comes in the end."""
        return {"type": "ping"} if self.begun else self.start()

    def start(self) -> dict[str, Any]:
        self.begun = True
        return {"type": "message_start", "message": {**self.message, "usage": usage_of(self.answer.usage)}}

    async def events(self) -> stream.Events:
        open_kind, index = "", -1
        async for piece in self.answer.pieces():
            if piece.kind == "start":
                if not self.begun:
                    yield self.start()
                continue
            if piece.kind in ("call", "finish") or (piece.kind != open_kind and piece.kind != "arguments"):
                if open_kind == "reasoning":
                    yield {"type": "content_block_delta", "index": index, "delta": SIGNED}
                if open_kind:
                    yield {"type": "content_block_stop", "index": index}
                if piece.kind == "finish":
                    continue
                open_kind, index = piece.kind, index + 1
                yield {"type": "content_block_start", "index": index, "content_block": empty_block(piece)}
            if piece.kind != "call":
                yield {"type": "content_block_delta", "index": index, "delta": delta(piece)}
        if piece.finish == "resource":
            raise unavailable("memory or the device went away")
        reason = "stop_sequence" if piece.stop_text is not None else STOP_REASON[piece.finish]
        yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": piece.stop_text},
               "usage": usage_of(self.answer.usage)}
        yield {"type": "message_stop"}

    async def whole(self) -> dict[str, Any]:
        return await blocks.gathered(self.events())
