"""dsvk chat: conversations turn by turn, what a terminal shows of them, and what comes out of a pipe."""
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn"), pytest.importorskip("starlette"), pytest.importorskip("pydantic")      # serving

import dsvk
from dsvk import chat
from dsvk.conversation import Conversation, tools_of
from serving import Script

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = """

<｜DSML｜tool_calls>
<｜DSML｜invoke name="weather">
<｜DSML｜parameter name="city" string="true">Bern
and Chur</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">1</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜tool_calls>"""


@pytest.fixture(scope="module")
def scheduler(nano):
    with dsvk.Scheduler(nano, max_running=1) as scheduler:
        yield scheduler


@pytest.fixture
def script(nano):
    return Script(nano.tokenizer)


def kinds(answer):
    return [event.kind for event in answer if event.kind not in ("prompt", "reasoning", "content", "arguments")]


# ---- conversations ----

def test_a_second_turn_reads_only_what_is_new(nano, scheduler):
    talk = Conversation(nano, scheduler, thinking=False, system="Be brief.", seed=10)
    first = talk.ask("ROMEO?")
    list(first)
    assert first.finish == "stop" and first.tokens > 0 and talk.length == first.prompt_tokens + first.tokens
    second = talk.ask("JULIET?")
    assert nano.tokenizer.decode(second._prompt) == chat.encode(talk._head() + talk.messages, thinking_mode="chat")
    list(second)
    new = second.prompt_tokens - first.prompt_tokens - first.tokens
    assert second.cached_tokens >= first.prompt_tokens + first.tokens - 1 and new < 20
    assert [m["role"] for m in talk.messages] == ["user", "assistant", "user", "assistant"]


class Letters:
    """A tokenizer that takes one token a letter, as no text would be written anew."""

    def __init__(self, tokenizer):
        self.decoder, self._encode = tokenizer.decoder, tokenizer.encode

    def encode(self, text, special):
        return [id for letter in text for id in self._encode(letter)]


def test_a_turn_stays_as_it_was_sampled(nano, script):
    script.tokenizer = Letters(nano.tokenizer)
    talk = Conversation(nano, script, thinking=False, system="Be brief.")
    script.say("Good morrow.", "Good.", "Well.")
    list(talk.ask("1")), list(talk.ask("2"))
    stood = script.prompts[0] + script.tokenizer.encode("Good morrow.", True) + [nano.config["eos_token_id"]]
    assert script.prompts[1][:len(stood)] == stood
    whole = chat.encode_ids(nano.tokenizer, talk._head() + talk.messages[:-1], thinking_mode="chat")
    assert script.prompts[1] != whole and nano.tokenizer.decode(script.prompts[1]) == nano.tokenizer.decode(whole)
    talk.tools = tools_of([WEATHER])
    list(talk.ask("3"))
    assert script.prompts[2] == chat.encode_ids(nano.tokenizer, talk._head() + talk.messages[:-1], thinking_mode="chat", tools=talk.tools)


def test_what_has_changed_is_written_anew(nano, script):
    talk = Conversation(nano, script, thinking=False)
    script.say("One.", "Two.", "Three.", "Four.")
    list(talk.ask("1")), list(talk.ask("2"))
    talk.system = "Count."
    list(talk.ask("3"))
    talk.thinking = True
    list(talk.ask("4"))
    for prompt, n, mode, head in zip(script.prompts, (1, 3, 5, 7), ["chat"] * 3 + ["thinking"], [[]] * 2 + [talk._head()] * 2):
        assert nano.tokenizer.decode(prompt) == chat.encode(head + talk.messages[:n], thinking_mode=mode)


def test_thoughts_are_left_out_of_later_prompts(nano, script):
    talk = Conversation(nano, script)
    script.say("Hm.</think>Yes.", "</think>No.")
    list(talk.ask("Warm?"))
    assert talk.messages[-1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    list(talk.ask("Cold?"))
    assert "Hm." not in nano.tokenizer.decode(script.prompts[1]) and "Yes." in nano.tokenizer.decode(script.prompts[1])


def test_tool_calls_and_their_results(nano, script):
    talk = Conversation(nano, script, tools=tools_of([WEATHER]))
    script.say("Look.</think>" + CALL, "Fine.</think>Warm.")
    answer = talk.ask("Bern?")
    assert kinds(answer) == ["call", "call_end"]
    assert [json.loads(call["function"]["arguments"]) for call in answer.calls] == [{"city": "Bern\nand Chur", "days": 1}]
    after = talk.go_on({answer.calls[0]["id"]: "20 degrees"})
    list(after)
    text = nano.tokenizer.decode(script.prompts[1])
    assert text == chat.encode(talk.messages[:-1], tools=talk.tools) and "Look." in text and "20 degrees" in text
    assert after.calls == [] and talk.messages[-1]["content"] == "Warm."
    assert chat.encode(talk.request("nano")["messages"], tools=talk.tools)      # /save: what a server reads


def test_calls_are_of_the_tools_there_are(nano, script, monkeypatch):
    """Behind the token that calls are written with, only a call of a tool there is may come; without tools everything may."""
    pytest.importorskip("llguidance")
    talk = Conversation(nano, script, thinking=False, tools=tools_of([WEATHER]))
    script.say("Look." + CALL, "Well.", "Fine.")
    list(talk.ask("Bern?"))
    talk.take_back_calls()
    assert script.options[0]["constraint"].after
    called, other = (nano.tokenizer.encode(text, special=True) for text in (CALL, CALL.replace("weather", "whether")))
    for ids, right in ((called, True), (other, False)):
        constraint = talk._constraint()
        told, allowed = 0, True
        for at in range(ids.index(constraint.after) + 1, len(ids)):
            mask = constraint.mask(0, ids[told:at])
            told, allowed = at, mask is None or mask[ids[at] // 8] >> ids[at] % 8 & 1
            if not allowed:
                break
        assert right == bool(allowed)
    talk.tools = []
    list(talk.ask("And?"))
    assert script.options[1]["constraint"] is None
    monkeypatch.setattr("dsvk.conversation.constrain.Grammars", lambda model: (_ for _ in ()).throw(dsvk.UnsupportedError("none")))
    bare = Conversation(nano, script, tools=tools_of([WEATHER]))
    list(bare.ask("Bern?"))
    assert script.options[2]["constraint"] is None


def test_calls_that_get_no_result_are_taken_back(nano, script):
    talk = Conversation(nano, script, thinking=False, tools=tools_of([WEATHER]))
    script.say("Look." + CALL, "Well.")
    list(talk.ask("Bern?"))
    talk.take_back_calls()
    list(talk.ask("Never mind."))
    assert "invoke" not in nano.tokenizer.decode(script.prompts[1]).rpartition("Bern?")[2]


def test_calls_of_an_answer_that_was_cut_are_none(nano, script):
    talk = Conversation(nano, script, thinking=False, tools=tools_of([WEATHER]),
                        max_tokens=len(nano.tokenizer.encode("Look." + CALL, special=True)))
    script.say("Look." + CALL + " And more.")
    answer = talk.ask("Bern?")
    assert kinds(answer) == ["call", "call_end"] and answer.finish == "length" and answer.calls == []
    assert talk.messages[-1] == {"role": "assistant", "content": "Look."}


def test_answers_that_are_cut_and_answers_that_never_begin(nano, script):
    talk = Conversation(nano, script, thinking=False, max_tokens=8, tools=tools_of([WEATHER]))
    script.say("Look." + CALL, ("", dsvk.DeviceMemoryError("no memory")), "Yes")
    answer = talk.ask("Bern?")
    list(answer)
    assert answer.finish == "length" and answer.calls == [] and talk.messages[-1] == answer.message
    with pytest.raises(dsvk.DeviceMemoryError, match="no memory"):
        list(talk.ask("And?"))
    script.refusal = dsvk.LimitError("too long")
    with pytest.raises(dsvk.LimitError):
        talk.ask("And?")
    script.refusal = None
    assert [m["role"] for m in talk.messages] == ["user", "assistant"]
    list(talk.ask("And?"))
    assert nano.tokenizer.decode(script.prompts[2]) == chat.encode(talk.messages[:-1], thinking_mode="chat", tools=talk.tools)


@pytest.mark.parametrize("value, message", [({}, "expected a JSON list"), ([1], "expected a JSON list"), ([{"a": 1}], r"tools\[0\]"),
                                            ([{"function": {}}], r"tools\[0\]")])
def test_tools_that_are_none(value, message):
    with pytest.raises(dsvk.InvalidError, match=message):
        tools_of(value)


# ---- the terminal ----

class Terminal:
    """A program on a terminal of its own. `seen` is what it showed so far."""

    def __init__(self, *words, **environment):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen([sys.executable, *words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        preexec_fn=controlled, env={**os.environ, "TERM": "xterm", "INPUTRC": "/dev/null",
                                                                    "PYTHONIOENCODING": "utf-8", **environment})
        os.close(slave)
        self.seen = ""
        self.at = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    def type(self, text, until=None):
        """Types; with until, again every few seconds until that is shown, as a person would: between showing its prompt and waiting for
        a key, readline's loop in CPython 3.11 has a moment in which a signal is kept for after the next key."""
        os.write(self.master, text.encode())
        for _ in range(10 if until else 0):
            try:
                return self.expect(until, 5)
            except AssertionError:
                os.write(self.master, text.encode())
        return self.expect(until) if until else None

    def expect(self, pattern, timeout=60):
        """What was shown from here up to a match."""
        end = time.monotonic() + timeout
        while not (match := re.compile(pattern, re.DOTALL).search(self.seen, self.at)):
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{pattern!r} did not come:\n{self.seen[self.at:]}")
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the program ended before {pattern!r}:\n{self.seen[self.at:]}") from None
        shown, self.at = self.seen[self.at:match.end()], match.end()
        return shown

    def ended(self):
        return self.process.wait(60)


def controlled():
    """The terminal on stdin becomes this session's, so that ^C reaches the program."""
    import fcntl
    import termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


SCRIPTED = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import json, types
import dsvk
from dsvk.conversation import Conversation
from dsvk.terminal import Chat, line_editing
from serving import Script
tokenizer = dsvk.Tokenizer(dsvk.locate("nano"))
model = types.SimpleNamespace(tokenizer=tokenizer, config=json.loads((dsvk.locate("nano") / "config.json").read_text()),
                              vocab_size=2048)
script = Script(tokenizer)
script.say(*json.loads(sys.argv[1]))
with line_editing(None):
    Chat(Conversation(model, script), "nano", 65536).run()
"""
PROMPT = r"\[(?:\d+ tokens/s, )?\d+ of 65536\] > "


def scripted(*answers, **environment):
    return Terminal("-c", SCRIPTED, json.dumps(answers), **environment)


@pytest.fixture
def tools_file(tmp_path):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([WEATHER]))
    return path


def test_thoughts_are_dim_and_calls_are_cards(tools_file, tmp_path):
    with scripted("Look.</think>" + CALL, "Fine.</think>\n\nWarm \x1b]0;title\x07!") as terminal:
        terminal.expect(PROMPT)
        terminal.type(f"/tools {tools_file}\r")
        terminal.expect("tools: weather")
        terminal.type("Bern?\r")
        shown = terminal.expect("result of weather > ")
        assert "\x1b[2mL" in shown and "DSML" not in shown
        for line in ("┌ weather", "│ city  Bern\r\n│       and Chur\r\n│ days  1\r\n", "└"):
            assert line in shown
        terminal.type("20 degrees\r")
        shown = terminal.expect("known, read in .*" + PROMPT)
        assert "Warm \ufffd]0;title\ufffd!\r\n" in shown and "\x1b[2mWarm" not in shown
        terminal.type(f"/save {tmp_path}/saved.json\r")
        terminal.expect("saved: .*" + PROMPT)
        terminal.type("/clear\r\x04")
        terminal.expect("cleared")
        assert terminal.ended() == 0
    body = json.loads((tmp_path / "saved.json").read_text())
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "tool", "assistant"] and body["tools"]


def test_commands_say_what_they_did(tmp_path):
    (tmp_path / "there").write_text("precious")
    with scripted() as terminal:
        for typed, shown in [("/think", "it answers at once"), ("/think on", "it thinks first"), ("/think maybe", "expected on or off"),
                             ("/effort", "the default"), ("/effort max", "effort: max"), ("/effort huge", "expected one of none"),
                             ("/system Be kind.", "system: Be kind."), ("/system -", "system: none"), ("/tools", "tools: none"),
                             ("/tools /nowhere", "/nowhere"), ("/nonsense", "no such command"), ("/help", "Ctrl-C stops"),
                             (f"/save {tmp_path}/there", "File exists"), ("/save", "expected the name")]:
            terminal.expect(PROMPT)
            terminal.type(typed + "\r")
            terminal.expect(re.escape(shown))
        terminal.expect(PROMPT)
        terminal.type("\x03", until="Ctrl-D or /quit ends.*" + PROMPT)
        terminal.type("\x1b[A\x1b[A\x1b[A\r")      # history: three lines up
        terminal.expect("Ctrl-C stops.*" + PROMPT)
        terminal.type("/quit\r")
        assert terminal.ended() == 0
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize("locale", ["C.UTF-8", "en_US.UTF-8"])
def test_what_is_typed_may_be_no_utf8(locale):
    with scripted("</think>Fine.", LC_ALL=locale, PYTHONIOENCODING="utf-8" if locale != "C.UTF-8" else "utf-8:surrogateescape") as terminal:
        terminal.expect(PROMPT)
        os.write(terminal.master, b"Hello \xff\xfe there\r")
        terminal.expect("is not UTF-8.*" + PROMPT)
        terminal.type("Well?\r")
        terminal.expect("Fine.*" + PROMPT)
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_tools_nested_too_deeply(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with scripted() as terminal:
        terminal.expect(PROMPT)
        terminal.type(f"/tools {tmp_path}/deep.json\r")
        terminal.expect("deep.json: it is nested too deeply.*" + PROMPT)
        terminal.type("\x04")
        assert terminal.ended() == 0


def test_no_color():
    with scripted("Hm.</think>Yes.", NO_COLOR="1") as terminal:
        terminal.expect(PROMPT)
        terminal.type("Warm?\r")
        terminal.expect("Yes.*" + PROMPT)
        assert not re.search(r"\x1b\[\d*m", terminal.seen)


def test_control_c_stops_the_answer_and_not_the_program(nano):
    with Terminal("-m", "dsvk", "chat", "nano", "--temperature", "0", "--seed", "1") as terminal:
        terminal.expect(PROMPT)
        for _ in range(20):      # an answer of fifteen tokens may be faster than the key
            terminal.type("ROMEO and JULIET\r")
            terminal.expect("\x1b\\[2m[A-Za-z]")      # text is flowing
            terminal.type("\x03")
            if re.search(r"\(stopped; \d+ tokens?;", terminal.expect(r"\[\d+ tokens/s, \d+ of 65536\] > ")):
                break
        else:
            raise AssertionError(f"no answer was stopped:\n{terminal.seen}")
        terminal.type("/clear\r")
        terminal.expect("cleared.* 0 of 65536")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.seen


def test_in_pipes_only_answers_come_out(tools_file):
    words = ["-m", "dsvk", "chat", "nano", "--seed", "3", "--max-tokens", "12", "--no-think"]
    ran = subprocess.run([sys.executable, *words], input="/system Be brief.\nHello\n\nAnd?\n", capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0 and ran.stderr == "system: Be brief.\n" and "\x1b" not in ran.stdout
    with dsvk.Model("nano") as model, dsvk.Scheduler(model) as scheduler:
        talk = Conversation(model, scheduler, thinking=False, system="Be brief.", max_tokens=12, seed=3)
        said = ["".join(event.text for event in talk.ask(question) if event.kind == "content") for question in ("Hello", "And?")]
    assert ran.stdout == "".join(text.lstrip("\n") + ("" if text.endswith("\n") else "\n") for text in said)
    failed = subprocess.run([sys.executable, *words, "--effort", "huge"], input="", capture_output=True, text=True, timeout=600)
    assert failed.returncode == 1 and "expected one of none" in failed.stderr
    failed = subprocess.run([sys.executable, *words], input="/nonsense\n", capture_output=True, text=True, timeout=600)
    assert failed.returncode == 1 and failed.stderr == "dsvk: /nonsense: no such command; /help lists them\n"
