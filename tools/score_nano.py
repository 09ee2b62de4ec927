"""How many held-out generated questions a chat model answers, by skill, through dsvk itself: greedy, many at once.

    python tools/score_nano.py MODEL TEXT.txt [--count 50] [--size 1] [--failures]

MODEL is a folder, or `nano`; TEXT.txt is the file that train_nano.py was given (prose for what stands between). With a folder that
has a model card, the table replaces what its section "Scores" holds. A question is one that chat_corpus.py keeps from training; it
is right when the answer is: the fact or the refusal word for word, the result of the sum, the line of the document, the JSON value,
the name and every argument of the call (or the refusal where no offered tool fits). Whatever else an answer says is not looked at.
"""
import argparse
import itertools
import json
import os
import re
import sys
from typing import Any, Iterator, NamedTuple

import dsvk
from chat_corpus import SKILLS, Example, examples, filler_lines
from dsvk import chat

TITLES = {"greet": "greetings", "fact": "facts", "sum": "sums, by thinking", "tool": "calling a tool, or saying that none fits",
          "json": "JSON", "recall": "recall of a line", "decline": "declining"}
MOST = 400              # tokens of an answer


class Question(NamedTuple):
    skill: str
    messages: list[dict[str, Any]]          # without the answer
    parameters: dict[str, Any]
    answer: dict[str, Any]                  # the assistant's message


def questions(filler: list[str], skill: str, size: int, seed: int) -> Iterator[Question]:
    """Endless. Of a conversation with tools the last decision is asked for: a call, or none."""
    for made in examples("held-out", seed, filler, (skill,), size):
        messages = made.messages
        if skill == "tool":
            calls = [i for i, message in enumerate(messages) if message.get("tool_calls")]
            messages = messages[:calls[-1] + 1] if calls and messages[-2]["role"] == "tool" else messages
        if skill != "sum" or made.parameters["thinking_mode"] == "thinking":
            yield Question(skill, messages[:-1], made.parameters, messages[-1])


def right(question: Question, said: dict[str, Any]) -> bool:
    """said: what dsvk.chat.parse makes of the answer."""
    want, content = question.answer, said["content"].strip()
    if question.skill == "sum":
        numbers = re.findall(r"-?\d+", content)
        return numbers[-1:] == re.findall(r"-?\d+", want["content"])[-1:]
    if question.skill == "json":
        try:
            return json.loads(content) == json.loads(want["content"])
        except ValueError:
            return False
    def calls(message):
        return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.get("tool_calls") or []]
    return calls(said) == calls(want) and (bool(want.get("tool_calls")) or content == want["content"])


def answer(scheduler: dsvk.Scheduler, model: dsvk.Model, asked: list[Question]) -> Iterator[tuple[Question, str, dict[str, Any]]]:
    """-> question, text of the answer, and what it says"""
    think = model.tokenizer.id("<think>")
    requests = []
    for question in asked:
        ids = chat.encode_ids(model.tokenizer, question.messages, **question.parameters)
        requests.append((question, ids[-1] == think, scheduler.submit(ids, max_tokens=MOST, temperature=0)))
    for question, thinking, request in requests:
        text = "".join(event.text for event in request)
        yield question, text, chat.parse(text, "thinking" if thinking else "chat")


def score(model: dsvk.Model, filler: list[str], count: int, size: int = 1, seed: int = 1, failures: bool = False,
          skills: tuple = SKILLS) -> dict[str, int]:
    """{skill: right answers of `count`}"""
    result = {}
    with dsvk.Scheduler(model, context=8192) as scheduler:
        for skill in skills:
            asked = list(itertools.islice(questions(filler, skill, size, 10 * seed + size), count))
            result[skill] = 0
            for question, text, said in answer(scheduler, model, asked):
                good = right(question, said)
                result[skill] += good
                if failures and not good:
                    print(f"-- {skill}: {question.messages[-1]['content'][-300:]}\nsaid: {text}\nwanted: {question.answer}\n", file=sys.stderr)
    return result


def table(scores: dict[str, dict[str, int]], count: int) -> str:
    """{column: {skill: right}} as Markdown"""
    rows = [f"| of {count} held-out questions | {' | '.join(scores)} |", "|---" * (len(scores) + 1) + "|"]
    rows += [f"| {TITLES[skill]} | {' | '.join(f'{column[skill]} ({column[skill] / count:.0%})' for column in scores.values())} |"
             for skill in SKILLS]
    return "\n".join(rows)


def write_card(path: str, text: str) -> None:
    """Replaces what the section "Scores" of a model card holds."""
    with open(path, encoding="utf-8") as f:
        card = f.read()
    card, n = re.subn(r"(?s)(?<=\n## Scores\n\n).*?(?=\n\n## )", lambda _: text, card)
    if n != 1:
        sys.exit(f"{path}: expected one section \"Scores\" with another section behind it, found {n}")
    with open(path, "w", encoding="utf-8") as f:
        f.write(card)


def main():
    parser = argparse.ArgumentParser(description="Score a chat model on held-out generated questions.")
    parser.add_argument("model", help="a folder, or nano")
    parser.add_argument("text", help="the text file of the training")
    parser.add_argument("--count", type=int, default=50, help="questions per skill")
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1, 2], help="0: short prompts, 1: hundreds of tokens, 2: behind long system prompts")
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=SKILLS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--failures", action="store_true", help="print wrong answers on stderr")
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as f:
        filler = filler_lines(f.read())
    names = {0: "short prompts", 1: "medium", 2: "long"}
    with dsvk.Model(args.model) as model:
        scores = {names[size]: score(model, filler, args.count, size, args.seed, args.failures, tuple(args.skills)) for size in args.sizes}
    if len(args.skills) < len(SKILLS):
        print(scores)
        return
    text = table(scores, args.count) + f"\n\n`python tools/score_nano.py MODEL {os.path.basename(args.text)} --count {args.count}`: " \
        "greedy, through dsvk's scheduler. Short prompts have tens to hundreds of\ntokens, long ones up to thousands, with unrelated text before the question."
    print(text)
    card = os.path.join(args.model, "README.md")
    if os.path.exists(card):
        write_card(card, text)


if __name__ == "__main__":
    main()
