"""dsvk chat: a conversation in the terminal. Answers go to stdout; thoughts, tool calls and everything else to stderr, so that in a
pipe only answers come out. What a model says never reaches the terminal as a control character."""
from __future__ import annotations

import json
import os
import re
import signal
import sys
from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Iterator

from . import _dsvk, chat
from .conversation import Answer, Conversation, tools_of

HELP = """\
/think [on|off]   think before answering, or don't
/effort [LEVEL]   how much: low, high or max
/system [TEXT]    a text in front of the conversation; "/system -" for none
/tools [FILE]     tools the model may call: a JSON list; "/tools -" for none
/save FILE        the conversation as a request has it; the server's page imports it
/clear            forget what was said
/help, /quit      Ctrl-C stops an answer, Ctrl-D ends"""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
DIM, BOLD, RED, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"


class Screen:
    """Where text goes, and how it looks there: plain unless a terminal shows it and NO_COLOR is not set."""

    def __init__(self) -> None:
        self.asking = sys.stdin.isatty()      # somebody types
        self.shown, self.results_shown = sys.stderr.isatty(), sys.stdout.isatty()
        self.colors = self.shown and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.begun: set[str] = set()      # places whose last line is not ended: one terminal is one place
        self.places = {sys.stdout: "out", sys.stderr: "out" if self.shown and self.results_shown else "err"}
        self.transient = False      # a line that the next text replaces

    def styled(self, style: str, text: str) -> str:
        return f"{style}{text}{PLAIN}" if self.colors and style and text else text

    def answer(self, text: str) -> None:
        self._put(sys.stdout, text, CONTROLS.sub("\ufffd", text) if self.results_shown else text)

    def aside(self, text: str, style: str = DIM) -> None:
        self._put(sys.stderr, text, self.styled(style, CONTROLS.sub("\ufffd", text)))

    def line(self, text: str, style: str = DIM) -> None:
        """A line of its own."""
        self.fresh(sys.stderr)
        self.aside(text, style)
        self.fresh(sys.stderr)

    def fresh(self, *streams: Any) -> None:
        """Ends the lines that were begun."""
        for stream in streams or (sys.stdout, sys.stderr):
            if self.places[stream] in self.begun:
                self._put(stream, "\n", "\n")

    def passing(self, text: str) -> None:
        """A line that goes away; only where somebody watches."""
        if self.colors:
            self.fresh(sys.stderr)
            print(f"\r{DIM}{text}{PLAIN}\x1b[K", end="", file=sys.stderr, flush=True)
            self.transient = True

    def _put(self, stream: Any, text: str, out: str) -> None:
        if self.transient:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self.transient = False
        print(out, end="", file=stream, flush=True)
        if text:
            (self.begun.discard if text.endswith("\n") else self.begun.add)(self.places[stream])

    def ask(self, prompt: str) -> str | None:
        """A line that is typed, again where it is no UTF-8, or the next of a pipe; None at the end. Raises KeyboardInterrupt."""
        while True:
            try:
                line = self._line(prompt)
                (line or "").encode()      # bytes that are none are kept as lone surrogates in some locales, in others they raise
                return line
            except UnicodeError:
                if not self.asking:
                    raise _dsvk.InvalidError("what comes in is not UTF-8") from None
                self.line("dsvk: what was typed is not UTF-8", RED)

    def _line(self, prompt: str) -> str | None:
        self.fresh()
        if self.asking and self.results_shown:
            if self.colors and "readline" in sys.modules:      # which has to know what takes no room
                prompt = f"\x01{BOLD}\x02{prompt}\x01{PLAIN}\x02"
            try:
                return input(prompt)
            except EOFError:
                print(flush=True)
                return None
        if self.asking:
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None


@contextmanager
def stopping(answer: Answer) -> Iterator[None]:
    """Ctrl-C ends the answer; a second one, while it is ending, is the usual KeyboardInterrupt."""
    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        answer.cancel()
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Chat:
    """Chat(conversation, name, context): run() asks for lines until there are no more. name: of the model, in what /save writes;
    context: most tokens, for the prompt line."""

    def __init__(self, conversation: Conversation, name: str, context: int):
        self.talk, self.name, self.context = conversation, name, context
        self.screen = Screen()
        self.rate = 0.0
        self.saved: set[str] = set()
        self.commands: dict[str, Callable[[str], object]] = {
            "/think": self.think, "/effort": self.effort, "/system": self.system, "/tools": self.tools, "/save": self.save,
            "/clear": self.clear, "/help": lambda rest: self.screen.line(HELP, "")}

    # ---- the loop ----

    def run(self) -> None:
        while True:
            try:
                line = self.screen.ask(self.prompt())
                if line is None or line.strip() in ("/quit", "/exit"):
                    return
                if line.strip():
                    self.take(line)
            except KeyboardInterrupt:      # at the prompt; or a second one, while an answer was already ending
                if not self.screen.asking:
                    raise
                self.screen.line("\n(Ctrl-D or /quit ends)")

    def take(self, line: str) -> None:
        """One line; where somebody types, what goes wrong is said and no reason to end."""
        try:
            word, _, rest = line.strip().partition(" ")
            if word in self.commands:
                self.commands[word](rest.strip())
            elif re.fullmatch(r"/\w+", word):
                raise _dsvk.InvalidError(f"{word}: no such command; /help lists them")
            else:
                self.converse(line)
        except (_dsvk.Error, OSError, ValueError) as error:
            if not self.screen.asking:
                raise
            self.screen.line(f"dsvk: {error}", RED)

    def prompt(self) -> str:
        speed = f"{self.rate:.0f} tokens/s, " if self.rate else ""
        return f"[{speed}{self.talk.length} of {self.context}] > "

    # ---- turns ----

    def converse(self, question: str) -> None:
        answer: Answer | None = self.talk.ask(question)
        while answer is not None:
            self.show(answer)
            answer = self.results(answer.calls)

    def show(self, answer: Answer) -> None:
        place = arguments = ""
        with stopping(answer) if self.screen.asking else nullcontext():
            for kind, text, _ in answer:
                if kind == "prompt":
                    self.screen.passing(f"reading {answer.prompt_done} of {answer.prompt_tokens} tokens")
                elif kind in ("reasoning", "content"):
                    if place != kind:
                        self.screen.fresh(sys.stderr)
                        text = text.lstrip("\n")      # the format's own empty lines
                    place = kind if text else place
                    (self.screen.answer if kind == "content" else self.screen.aside)(text)
                elif kind == "call":
                    place, arguments = "call", ""
                    self.screen.line(f"┌ {text}", BOLD)
                elif kind == "arguments":
                    arguments += text
                elif kind in ("call_end", "call_cut"):
                    self.card(arguments, kind == "call_cut")
        self.finished(answer)

    def card(self, arguments: str, cut: bool) -> None:
        values = json.loads(arguments or "{}")
        width = max(map(len, values), default=0)
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            first, *more = text.split("\n")
            for head, line in [(name, first)] + [("", line) for line in more]:
                self.screen.line(f"│ {head.ljust(width)}  {line}", "")
        self.screen.line("└ cut" if cut else "└", BOLD)

    def finished(self, answer: Answer) -> None:
        if answer.finish == "cancelled" and self.screen.shown:
            self.screen.begun.add(self.screen.places[sys.stderr])      # the terminal wrote ^C
        self.screen.fresh()
        self.rate = answer.rate
        why = {"cancelled": "stopped; ", "length": "as long as --max-tokens allows; ", "context": "the context is full; "}
        if self.screen.shown:
            tokens = f"{answer.tokens} token{'s' if answer.tokens != 1 else ''}"
            self.screen.line(f"({why.get(answer.finish or '', '')}{tokens}; prompt of {answer.prompt_tokens}, of them "
                             f"{answer.cached_tokens} known, read in {answer.prefill_seconds:.1f} s)")

    def results(self, calls: list[dict[str, Any]]) -> Answer | None:
        """Asks for what the calls gave, and goes on with it; None where there is nothing to go on with."""
        results: dict[str, str] = {}
        try:
            for call in calls:
                result = self.screen.ask(f"result of {call['function']['name']} > ")
                if result is None:
                    break
                results[call["id"]] = result
        except KeyboardInterrupt:
            if not self.screen.asking:
                raise
        if len(results) < len(calls):
            self.screen.line("(no result: the call is taken back)")
            self.talk.take_back_calls()
        return self.talk.go_on(results) if calls and len(results) == len(calls) else None

    # ---- commands ----

    def think(self, rest: str) -> None:
        if rest not in ("", "on", "off"):
            raise _dsvk.InvalidError(f"/think: expected on or off, got {rest[:40]!r}")
        self.talk.thinking = not self.talk.thinking if not rest else rest == "on"
        self.screen.line("it thinks first" if self.talk.thinking else "it answers at once")

    def effort(self, rest: str) -> None:
        if rest:
            chat.encode([], reasoning_effort=rest)
            self.talk.effort = rest
        self.screen.line(f"effort: {self.talk.effort or 'the default'}")

    def system(self, rest: str) -> None:
        if rest:
            self.talk.system = "" if rest == "-" else rest
        self.screen.line(f"system: {self.talk.system or 'none'}")

    def tools(self, rest: str) -> None:
        if rest:
            self.talk.tools = [] if rest == "-" else read_tools(rest)
        self.screen.line(f"tools: {', '.join(tool['function']['name'] for tool in self.talk.tools) or 'none'}")

    def save(self, rest: str) -> None:
        if not rest:
            raise _dsvk.InvalidError("/save: expected the name of a file")
        with open(rest, "w" if rest in self.saved else "x", encoding="utf-8") as file:
            json.dump(self.talk.request(self.name), file, ensure_ascii=False, indent=1)
            file.write("\n")
        self.saved.add(rest)
        self.screen.line(f"saved: {rest}")

    def clear(self, rest: str) -> None:
        self.talk.clear()
        self.screen.line("cleared")


def read_tools(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            return tools_of(json.load(file))
    except RecursionError:
        raise _dsvk.InvalidError(f"{path}: it is nested too deeply") from None
    except ValueError as error:
        raise _dsvk.InvalidError(f"{path}: {error}") from None


@contextmanager
def line_editing(history: str | None) -> Iterator[None]:
    """Arrow keys, search, and the lines of earlier times from a file, where somebody wants one kept."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:      # Python without it: plain lines
        yield
        return
    readline.set_auto_history(True)
    try:
        if history and os.path.exists(history):
            readline.read_history_file(history)
    except OSError as error:
        raise _dsvk.InvalidError(f"--history {history}: {error.strerror}") from None
    try:
        yield
    finally:
        if history:
            readline.set_history_length(1000)
            try:
                readline.write_history_file(history)
            except OSError as error:
                raise _dsvk.InvalidError(f"--history {history}: {error.strerror}") from None
