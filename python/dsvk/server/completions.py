"""POST /v1/completions: a text continued, or filled in between two."""
from __future__ import annotations

from typing import Annotated, Any, AsyncIterator

from pydantic import BeforeValidator

from .answer import Answer, Logprob, Piece
from .engine import Engine, Job
from .errors import bad
from .fields import Generated, validated
from .limits import COMPLETION_TOKENS, Choices, TopLogprobs
from .openai_format import FINISH, head, token_bytes, usage_of


def one_prompt(value: Any) -> str | list[int]:
    """A text, or token ids; a list of one text is that text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(id) is int for id in value)):
        return value
    raise ValueError("expected one text, or a list of token ids")


class CompletionRequest(Generated):
    prompt: Annotated[Any, BeforeValidator(one_prompt)]
    suffix: str | None = None
    echo: bool = False
    logprobs: TopLogprobs | None = None
    best_of: Choices | None = None


def read(engine: Engine, body: dict[str, Any]) -> CompletionRequest:
    request = validated(CompletionRequest, engine, body)
    request.check_ids(engine)
    if request.best_of is not None and request.best_of != request.n:
        raise bad("best_of", f"only the same as n is supported, {request.n}, got {request.best_of}")
    if request.echo and request.logprobs is not None:
        raise bad("echo", "log-probabilities of the prompt are not supported by this server yet: leave out echo or logprobs")
    return request


def prompt_of(engine: Engine, r: CompletionRequest) -> list[int]:
    tokenizer, vocab = engine.tokenizer, engine.model.config["vocab_size"]
    if not isinstance(r.prompt, str):
        if r.suffix is not None:
            raise bad("suffix", "needs a prompt that is text")
        if not all(0 <= id < vocab for id in r.prompt):
            raise bad("prompt", f"token ids are 0 to {vocab - 1}")
        return r.prompt
    if r.suffix is None:
        prompt = engine.model.prompt_tokens(r.prompt)
        if not prompt:
            raise bad("prompt", "is empty")
        return prompt
    begin, hole, end = (tokenizer.id(f"<｜fim▁{name}｜>") for name in ("begin", "hole", "end"))
    if None in (begin, hole, end):
        raise bad("suffix", "the model has no tokens for filling in")
    return [*engine.model.prompt_tokens(""), begin, *tokenizer.encode(r.prompt), hole, *tokenizer.encode(r.suffix), end]


def job_of(engine: Engine, body: dict[str, Any], r: CompletionRequest) -> Job:
    return Job(prompt_of(engine, r), chat=False, max_tokens=r.max_tokens or COMPLETION_TOKENS, choices=r.n, sampling=r.sampling,
               stop=r.stop, logprobs=r.logprobs, user=r.user_id or r.user or "")


class Reply:
    """Writes an answer down in this format, whole or as a stream."""
    named_events = False

    def __init__(self, engine: Engine, r: CompletionRequest, job: Job, answer: Answer):
        self.engine, self.r, self.answer = engine, r, answer
        self.head = head(engine, "cmpl-", "text_completion")
        self.n = job.choices
        self.echoed = "" if not r.echo else r.prompt if isinstance(r.prompt, str) else engine.tokenizer.decode(r.prompt)

    def text(self, piece: Piece) -> str:
        return self.echoed if piece.kind == "start" else piece.text

    def token(self, id: int) -> str:
        return token_bytes(self.engine, id).decode(errors="replace")

    def logprobs(self, found: list[Logprob]) -> dict[str, Any] | None:
        if self.r.logprobs is None:
            return None
        return {"tokens": [self.token(one.id) for one in found], "token_logprobs": [one.value for one in found],
                "top_logprobs": [{self.token(id): value for id, value in one.top} for one in found],
                "text_offset": [one.offset for one in found]}

    def choice(self, index: int, text: str, logprobs: list[Logprob], finish: str) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": self.logprobs(logprobs),
                "finish_reason": FINISH[finish] if finish else None}

    async def whole(self) -> dict[str, Any]:
        texts, logprobs, finish = [""] * self.n, [[] for _ in range(self.n)], [""] * self.n
        async for piece in self.answer.pieces():
            texts[piece.choice] += self.text(piece)
            logprobs[piece.choice] += piece.logprobs.get("content", [])
            finish[piece.choice] = piece.finish
        return {**self.head, "choices": [self.choice(i, texts[i], logprobs[i], finish[i]) for i in range(self.n)],
                "usage": usage_of(self.answer.usage)}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        told = {"usage": None} if self.r.stream_options.include_usage else {}
        async for piece in self.answer.pieces():
            if piece.kind != "start" or self.echoed:
                yield {**self.head, "choices": [self.choice(piece.choice, self.text(piece), piece.logprobs.get("content", []),
                                                            piece.finish)], **told}
        if told:
            yield {**self.head, "choices": [], "usage": usage_of(self.answer.usage)}
