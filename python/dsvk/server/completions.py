"""POST /v1/completions: a text continued, or filled in between two."""
from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from . import stream
from .answer import Answer, Logprob, Piece
from .engine import Engine, Job, refuse_too_long
from .errors import bad
from .fields import Generated, validated
from .limits import COMPLETION_TOKENS, LARGEST, MOST_PROMPTS, Choices, TopLogprobs
from .openai_format import FINISH, head, token_bytes, usage_of


def is_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(id) is int for id in value)


def some_prompts(value: Any) -> list[str] | list[list[int]]:
    """Texts, or lists of token ids."""
    prompts = [value] if isinstance(value, str) or is_ids(value) else value
    if not isinstance(prompts, list) or not prompts or not (all(isinstance(prompt, str) for prompt in prompts) or
                                                            all(map(is_ids, prompts))):
        raise ValueError("expected a text, a list of token ids, or a list of either")
    if len(prompts) > MOST_PROMPTS:
        raise ValueError(f"at most {MOST_PROMPTS} prompts, got {len(prompts)}")
    return prompts


class CompletionRequest(Generated):
    prompt: Annotated[list[str] | list[list[int]], BeforeValidator(some_prompts)]
    max_tokens: Annotated[int, Field(ge=0, le=LARGEST)] = COMPLETION_TOKENS
    suffix: str | None = None
    echo: bool = False
    logprobs: TopLogprobs | None = None
    best_of: Choices | None = None


REQUEST = CompletionRequest


def read(engine: Engine, body: dict[str, Any]) -> CompletionRequest:
    request = validated(CompletionRequest, engine, body)
    request.check_ids(engine)
    if request.best_of is not None and request.best_of != request.n:
        raise bad("best_of", f"only the same as n is supported, {request.n}, got {request.best_of}")
    if request.max_tokens == 0 and not request.echo:
        raise bad("max_tokens", "0 needs echo: nothing would come back")
    if request.suffix is not None and not isinstance(request.prompt[0], str):
        raise bad("suffix", "needs a prompt that is text")
    if request.suffix is not None and request.echo and request.logprobs is not None:
        raise bad("echo", "with logprobs it is for texts that are continued: leave out the suffix")
    return request


def prompt_of(engine: Engine, r: CompletionRequest, given: str | list[int]) -> list[int]:
    tokenizer, vocab = engine.tokenizer, engine.model.config["vocab_size"]
    if not isinstance(given, str):
        if not all(0 <= id < vocab for id in given):
            raise bad("prompt", f"token ids are 0 to {vocab - 1}")
        return given
    refuse_too_long(engine, (given, r.suffix or ""), "prompt")
    if r.suffix is None:
        prompt = engine.model.prompt_tokens(given)
        if not prompt:
            raise bad("prompt", "is empty")
        return prompt
    begin, hole, end = (tokenizer.id(f"<｜fim▁{name}｜>") for name in ("begin", "hole", "end"))
    if begin is None or hole is None or end is None:
        raise bad("suffix", "the model has no tokens for filling in")
    return [*engine.model.prompt_tokens(""), begin, *tokenizer.encode(given), hole, *tokenizer.encode(r.suffix), end]


def job_of(engine: Engine, body: dict[str, Any], r: CompletionRequest) -> Job:
    first, *more = [prompt_of(engine, r, given) for given in r.prompt]
    unseen = len(engine.model.prompt_tokens("")) if isinstance(r.prompt[0], str) else 0
    return Job(first, chat=False, max_tokens=max(r.max_tokens, 1), choices=r.n, sampling=r.sampling, stop=r.stop,
               logprobs=r.logprobs, user=r.user_id or r.user or "", prompt_field="prompt", more_prompts=more,
               score_prompt=r.echo and r.logprobs is not None, only_score=r.max_tokens == 0, unseen=unseen)


class Reply(stream.Reply):
    """Writes an answer down in this format, whole or as a stream."""

    def __init__(self, engine: Engine, r: CompletionRequest, job: Job, answer: Answer):
        self.engine, self.r, self.answer = engine, r, answer
        self.head = head(engine, "cmpl-", "text_completion")
        self.each, self.n = job.choices, job.choices * len(job.prompts)

    def text(self, piece: Piece) -> str:
        if piece.kind != "start" or not self.r.echo:
            return piece.text
        prompt = self.r.prompt[piece.choice // self.each]
        return prompt if isinstance(prompt, str) else self.engine.tokenizer.decode(prompt)

    def token(self, id: int) -> str:
        return token_bytes(self.engine, id).decode(errors="replace")

    def logprobs(self, found: list[Logprob]) -> dict[str, Any] | None:
        if self.r.logprobs is None:
            return None
        return {"tokens": [self.token(one.id) for one in found], "token_logprobs": [one.value for one in found],
                "top_logprobs": [None if one.value is None else {self.token(id): value for id, value in one.top} for one in found],
                "text_offset": [one.offset for one in found]}

    def choice(self, index: int, text: str, logprobs: list[Logprob], finish: str) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": self.logprobs(logprobs),
                "finish_reason": FINISH[finish] if finish else None}

    async def whole(self) -> dict[str, Any]:
        texts, finish = [""] * self.n, [""] * self.n
        logprobs: list[list[Logprob]] = [[] for _ in range(self.n)]
        async for piece in self.answer.pieces():
            texts[piece.choice] += self.text(piece)
            logprobs[piece.choice] += piece.logprobs.get("content", [])
            finish[piece.choice] = piece.finish
        return {**self.head, "choices": [self.choice(i, texts[i], logprobs[i], finish[i]) for i in range(self.n)],
                "usage": usage_of(self.answer.usage)}

    async def events(self) -> stream.Events:
        told = {"usage": None} if self.r.stream_options.include_usage else {}
        async for piece in self.answer.pieces():
            text = self.text(piece)
            if piece.kind != "start" or text:
                yield {**self.head, "choices": [self.choice(piece.choice, text, piece.logprobs.get("content", []), piece.finish)],
                       **told}
        if told:
            yield {**self.head, "choices": [], "usage": usage_of(self.answer.usage)}
