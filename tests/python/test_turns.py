"""What the next turn of a conversation finds kept, in counts of tokens, in each wire format that has conversations."""
import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from dsvk.server import Engine  # noqa: E402
from serving import Script, served  # noqa: E402

PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}


@pytest.fixture(scope="module")
def url(nano):
    with served(Engine(nano, "nano")) as url:
        yield url


class Talk:
    """A conversation in one format: say() and result() go on with it; each returns tokens of the prompt, of them found kept, generated ones
    and whether the end token was among them. The first text makes the prompt one that no other test has."""

    def __init__(self, url, thinking, tools=False, forced=False, **options):
        self.url, self.options, self.items, self.calls = url, {"model": "nano", "temperature": 0, **options}, [], []
        self.set(thinking, tools, forced)

    def post(self, path, body):
        answer = httpx.post(self.url + path, json={**self.options, **body}, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def say(self, text):
        self.items.append({"role": "user", "content": text})
        return self.go_on()


class Chat(Talk):
    def set(self, thinking, tools, forced):
        self.options["thinking"] = {"type": "enabled" if thinking else "disabled"}
        if tools:
            self.options["tools"] = [{"type": "function", "function": {"name": "Bash", "parameters": PARAMETERS}}]
            self.options["tool_choice"] = "required" if forced else "auto"

    def go_on(self):
        answer = self.post("/v1/chat/completions", {"messages": self.items})
        choice, usage = answer["choices"][0], answer["usage"]
        self.items.append(choice["message"])
        self.calls = [call["id"] for call in choice["message"].get("tool_calls") or []]
        return usage["prompt_tokens"], usage["prompt_cache_hit_tokens"], usage["completion_tokens"], choice["finish_reason"] != "length"

    def result(self, text):
        self.items += [{"role": "tool", "tool_call_id": id, "content": text} for id in self.calls]
        return self.go_on()


class Messages(Talk):
    def set(self, thinking, tools, forced):
        self.options = {"max_tokens": 200, **self.options, "thinking": {"type": "adaptive" if thinking else "disabled"}}
        if tools:
            self.options["tools"] = [{"name": "Bash", "input_schema": PARAMETERS}]
            self.options["tool_choice"] = {"type": "any" if forced else "auto"}

    def go_on(self):
        answer = self.post("/v1/messages", {"messages": self.items})
        usage = answer["usage"]
        self.items.append({"role": "assistant", "content": answer["content"]})
        self.calls = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
        cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + cached, cached, usage["output_tokens"], answer["stop_reason"] != "max_tokens"

    def result(self, text):
        self.items.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": text} for id in self.calls]})
        return self.go_on()


class Responses(Talk):
    def set(self, thinking, tools, forced):
        self.options["max_output_tokens"] = self.options.pop("max_tokens", self.options.get("max_output_tokens"))
        self.options["reasoning"] = {"effort": "high" if thinking else "none"}
        if tools:
            self.options["tools"] = [{"type": "function", "name": "Bash", "parameters": PARAMETERS, "strict": False}]
            self.options["tool_choice"] = "required" if forced else "auto"

    def go_on(self):
        answer = self.post("/v1/responses", {"input": self.items})
        usage = answer["usage"]
        self.items += answer["output"]
        self.calls = [item["call_id"] for item in answer["output"] if item["type"] == "function_call"]
        cached = usage["input_tokens_details"]["cached_tokens"]
        return usage["input_tokens"], cached, usage["output_tokens"], answer["status"] == "completed"

    def result(self, text):
        self.items += [{"type": "function_call_output", "call_id": id, "output": text} for id in self.calls]
        return self.go_on()


FORMATS = pytest.mark.parametrize("format", [Chat, Messages, Responses])


@FORMATS
def test_thoughts_that_are_dropped_cost_their_turn_and_no_more(url, format):
    """The first answer began behind <think>, the next prompt has </think> in its place: all before it is found."""
    talk = format(url, thinking=True, max_tokens=8)
    prompt, cached, _, _ = talk.say(f"{format.__name__} thinks. Hello")
    assert cached == 0 and talk.say("What is 27 + 35?")[1] == prompt - 1


@pytest.mark.parametrize("format, thinking", [(Chat, False), (Messages, True), (Responses, True)])
def test_turns_with_tools_are_found_whole(url, format, thinking):
    """A prompt, what was generated, and the end token: of a call, and of what is said about its result. Thoughts stay where there are
    tools."""
    pytest.importorskip("llguidance")
    talk = format(url, thinking, tools=True, forced=True, max_tokens=120)
    prompt, cached, completion, ended = talk.say(f"{format.__name__} calls. Use Bash to run `ls`.")
    assert talk.calls and ended
    talk.set(thinking, tools=True, forced=False)
    for _ in range(2):
        whole = prompt + completion + 1
        prompt, cached, completion, ended = talk.result("README.md") if talk.calls else talk.say("Hello")
        assert ended and cached == whole


@FORMATS
def test_an_answer_in_other_tokens_than_its_text_would_make_is_repeated_so(nano, format):
    """The same text in other thoughts is another turn."""
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    spelt = [nano.tokenizer.id(letter) for letter in "Hello"]
    thinks, end = nano.tokenizer.encode("A greeting.</think>", special=True), nano.tokenizer.id("<｜end▁of▁sentence｜>")
    with served(engine) as url:
        for thinking, said in ((False, spelt), (True, thinks + spelt)):
            talk = format(url, thinking, tools=True, max_tokens=60)
            engine.scheduler.say(said, "It is.</think>So." if thinking else "So.")
            talk.say("Hello")
            whole = engine.scheduler.prompts[-1] + said + [end]
            talk.say("Is it?")
            assert engine.scheduler.prompts[-1][:len(whole)] == whole
        for item in talk.items:
            if "reasoning_content" in item:
                item["reasoning_content"] += "!"
            elif "content" in item and item["content"] and item["content"][0] != "H" and "thinking" in item["content"][0]:
                item["content"][0]["thinking"] += "!"
            elif item.get("type") == "reasoning":
                item["content"][0]["text"] += "!"
        engine.scheduler.say("So.")
        talk.say("Sure?")
        assert engine.scheduler.prompts[-1][:len(whole)] != whole and spelt[1] not in engine.scheduler.prompts[-1]


def test_what_was_not_told_is_not_repeated(nano):
    """A call that nobody asked for."""
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    call = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="Bash">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
    with served(engine) as url:
        talk = Chat(url, thinking=False)
        engine.scheduler.say("Hello" + call, "So.")
        talk.say("Hello")
        assert talk.items[-1]["content"] == "Hello"
        talk.say("Is it?")
        assert "</think>Hello<｜end▁of▁sentence｜><｜User｜>Is it?" in nano.tokenizer.decode(engine.scheduler.prompts[-1])
