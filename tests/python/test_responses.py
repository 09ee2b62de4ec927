"""The server's Responses format by the official client, with strict validation, its events to the letter, and the rules of its items
and tools."""
import asyncio
import json

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

import dsvk  # noqa: E402
from dsvk import chat  # noqa: E402
from dsvk.server.responses import FreeText  # noqa: E402
from test_server import BERN, HELLO, call, calls, engine, official, scripted, url  # noqa: E402, F401

WEATHER = {"type": "function", "name": "weather", "description": "Weather of a city", "strict": False, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
CLOCK = {"type": "function", "name": "clock", "parameters": {"type": "object", "properties": {}}, "strict": False}
PATCH = {"type": "custom", "name": "patch", "description": "Edits files", "format": {"type": "text"}}
MAPS = {"type": "namespace", "name": "mcp__maps__", "description": "Maps", "tools": [CLOCK, {**WEATHER, "name": "route"}]}
OFF = {"reasoning": {"effort": "none"}}
KEYS = """id object created_at completed_at status model output error incomplete_details instructions max_output_tokens
    parallel_tool_calls previous_response_id reasoning store temperature top_p top_logprobs text tool_choice tools truncation usage user
    metadata background service_tier max_tool_calls presence_penalty frequency_penalty prompt_cache_key safety_identifier""".split()


def create(client, input="Hello", **options):
    return client.responses.create(**{"model": "nano", "input": input, **options})


def raw(url, **options):
    """A stream's events, whose names and numbers are checked."""
    answer = httpx.post(url + "/v1/responses", json={"model": "nano", "input": "Hello", "stream": True, **options})
    assert answer.status_code == 200 and "[DONE]" not in answer.text, answer.text
    *events, rest = answer.text.split("\n\n")
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert rest == "" and name == "event: " + found[-1]["type"] and found[-1]["sequence_number"] == len(found) - 1
    return found


def prompt(scripted, input, **options):
    """The text of the prompt that the items make."""
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x")
    create(scripted.client, input, **options)
    return scripted.tokenizer.decode(scripted.scheduler.prompts[-1])


def without_ids(value):
    return [{name: member for name, member in item.items() if name not in ("id", "call_id")} for item in value]


def test_an_answer_is_what_the_model_says_and_a_stream_the_same(nano, url):
    for mode, limit, options in (("chat", 9, OFF), ("thinking", 2, {})):      # a thought is soon over
        text = nano.generate(chat.encode_ids(nano.tokenizer, HELLO, thinking_mode=mode), limit, temperature=0)
        whole = create(official(url), max_output_tokens=limit, temperature=0, **options)
        item, = whole.output
        assert item.content[0].text == text and item.type == ("message" if mode == "chat" else "reasoning")
        assert (whole.status, whole.incomplete_details.reason, item.status) == ("incomplete", "max_output_tokens", "incomplete")
        assert (whole.output_text, whole.usage.output_tokens) == (text if mode == "chat" else "", limit)
        assert set(KEYS) <= set(whole.to_dict()) and whole.reasoning.effort == ("none" if mode == "chat" else "high")
        events = list(create(official(url), max_output_tokens=limit, temperature=0, stream=True, **options))
        assert "".join(event.delta for event in events if event.type.endswith("_text.delta")) == text
        assert without_ids(events[-1].response.to_dict()["output"]) == without_ids(whole.to_dict()["output"])
        assert events[-1].type == "response.incomplete" and events[-1].response.usage.output_tokens == limit


def test_the_asynchronous_client(url, nano):
    async def run():
        async with official(url, openai.AsyncOpenAI) as client:
            stream = await create(client, max_output_tokens=5, temperature=0, stream=True, **OFF)
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return "".join(deltas), (await create(client, max_output_tokens=5, temperature=0, **OFF)).output_text
    text = nano.generate(chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat"), 5, temperature=0)
    assert asyncio.run(run()) == (text, text)


def test_thoughts_text_and_calls_whole_and_as_events(scripted):
    patch = 'a "b"\n\\ Zü\u2028\u0001'
    said = "Look.</think>I will." + calls(BERN, call("mcp__maps__clock"), call("patch", ("input", "true", patch)), call("other"))
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(said, said)
    options = {"tools": [WEATHER, MAPS, PATCH], "metadata": {"a": "b"}, "instructions": "Be brief.", "user": "ada",
               "tool_choice": "auto", "text": {"format": {"type": "text"}, "verbosity": "low"}}
    whole = create(scripted.client, **options)
    thoughts, message, weather, clock, custom, other = whole.to_dict()["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Look."}]
    assert (thoughts["summary"], thoughts["encrypted_content"]) == ([], None)
    assert message["content"] == [{"type": "output_text", "text": "I will.", "annotations": [], "logprobs": []}]
    assert (message["phase"], message["role"]) == ("commentary", "assistant")
    assert (weather["name"], json.loads(weather["arguments"])) == ("weather", {"city": 'Bern "old"', "days": 1})
    assert (clock["type"], clock["name"], clock["namespace"], clock["arguments"]) == ("function_call", "clock", "mcp__maps__", "{}")
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "patch", patch)
    assert other["name"] == "other" and "namespace" not in weather
    prefixes = [(item["id"].split("_")[0], item.get("call_id", "call_").split("_")[0]) for item in whole.to_dict()["output"]]
    assert prefixes == [("rs", "call"), ("msg", "call"), ("fc", "call"), ("fc", "call"), ("ctc", "call"), ("fc", "call")]
    assert (whole.status, whole.metadata, whole.instructions) == ("completed", {"a": "b"}, "Be brief.")
    assert (whole.user, whole.store) == ("ada", False)
    assert whole.to_dict()["tools"] == options["tools"] and whole.text.verbosity == "low" and whole.completed_at >= whole.created_at
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens

    events = raw(scripted.url, **options)
    assert [event["type"].removeprefix("response.") for event in events[:2]] == ["created", "in_progress"]
    assert all(event["response"]["output"] == [] and event["response"]["usage"] is None for event in events[:2])
    final = events[-1]["response"]
    assert events[-1]["type"] == "response.completed" and set(final) == set(KEYS)
    assert without_ids(final["output"]) == without_ids(whole.to_dict()["output"])
    for i, item in enumerate(final["output"]):
        ours = [event for event in events if event.get("output_index") == i]
        kinds = [event["type"].removeprefix("response.") for event in ours]
        assert (kinds[0], kinds[-1]) == ("output_item.added", "output_item.done") and ours[-1]["item"] == item
        assert ours[0]["item"]["status"] == "in_progress" and ours[0]["item"]["id"] == item["id"] and item["status"] == "completed"
        assert all(event["item_id"] == item["id"] for event in ours[1:-1])
        deltas = "".join(event["delta"] for event in ours if event["type"].endswith(".delta"))
        if item["type"] in ("message", "reasoning"):
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            assert kinds[1] == "content_part.added" and ours[1]["part"] == {**item["content"][0], "text": ""}
            assert kinds[-3:-1] == [kind + ".done", "content_part.done"] and set(kinds[2:-3]) == {kind + ".delta"}
            assert ours[-2]["part"] == item["content"][0] and ours[-3]["text"] == deltas == item["content"][0]["text"]
            assert all(event["content_index"] == 0 for event in ours[1:-1])
            assert all(event.get("logprobs") == ([] if kind == "output_text" else None) for event in ours[2:-2])
        else:
            kind, name = ("custom_tool_call_input", "input") if item["type"] == "custom_tool_call" else \
                ("function_call_arguments", "arguments")
            assert set(kinds[1:-2]) <= {kind + ".delta"} and kinds[-2] == kind + ".done"
            assert ours[0]["item"][name] == "" and ours[-2][name] == deltas == item[name]
    scripted.scheduler.say("Why?</think>Yes.")
    with scripted.client.responses.stream(model="nano", input="Hello") as stream:
        assert stream.get_final_response().output_text == "Yes."


@pytest.mark.parametrize("arguments, text", [
    ('{"input": "a\\"b\\\\\\n\\u0001ü\\ud83d\\ude00"}', 'a"b\\\n\x01ü😀'), ("{}", ""), ("", ""),
    ('{"patch": "x"}', "x"), ('{"input": 3}', "3"),
    ('{"a": "x", "input": "y"}', "y"), ('{"input": "y", "a": "x"}', "y")])
def test_free_text_is_the_same_however_it_is_cut(arguments, text):
    for size in (1, 2, 5, 100):
        free = FreeText()
        pieces = [free.feed(arguments[i:i + size]) for i in range(0, len(arguments), size)]
        assert "".join(pieces) + free.rest() == text


def test_items_make_the_prompt_of_the_chat_format(scripted, nano):
    """Outputs stand behind their turn wherever they come; neighbours of the assistant are one turn; what is unknown is skipped."""
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo"}], "id": "m"},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": None, "content": [
            {"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "One", "annotations": []}, {"type": "refusal", "refusal": " moment."}]},
        {"type": "function_call", "call_id": "a", "name": "clock", "namespace": "mcp__maps__", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": 'a "b"'},
        {"type": "web_search_call", "id": "w"}, {"type": "compaction", "encrypted_content": "x"}, {"type": "never_heard_of\n"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "of b"}]},
        {"role": "user", "content": "And?"},
        {"type": "function_call_output", "call_id": "a", "output": "of a"}]

    def one(name, **arguments):
        return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "One moment.", "reasoning_content": "Hm.", "tool_calls": [
                    {"id": "a", **one("mcp__maps__clock")}, {"id": "b", **one("patch", input='a "b"')}]},
                {"role": "tool", "tool_call_id": "a", "content": "of a"}, {"role": "tool", "tool_call_id": "b", "content": "of b"},
                {"role": "user", "content": "And?"}]
    text = prompt(scripted, items, instructions="Be brief.")
    assert text == chat.encode(messages, reasoning_effort="high")
    assert prompt(scripted, None, instructions="Be brief.", **OFF).endswith("Be brief.<｜User｜><｜Assistant｜></think>")
    again = prompt(scripted, [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}], **OFF)
    assert again.endswith("Hi.<｜end▁of▁sentence｜><｜User｜><｜Assistant｜></think>")      # never continued


def test_tools_of_the_server_are_not_offered_and_others_are_as_functions(scripted):
    text = prompt(scripted, "Hello", tools=[{"type": "web_search"}, {"type": "local_shell"}, PATCH, MAPS,
                                            {"type": "mcp", "server_label": "x"}])
    assert "web_search" not in text and "local_shell" not in text
    offered = [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')]
    assert [tool["name"] for tool in offered] == ["patch", "mcp__maps__clock", "mcp__maps__route"]
    assert offered[0]["parameters"]["properties"] == {"input": {"type": "string"}}


def test_the_next_turn_repeats_a_call_as_it_was_sampled(scripted):
    sampled = "Hm.</think>Right" + calls(call("patch", ("input", "true", "x")).replace(">\n", ">  \n"))
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(sampled, "x")
    first = create(scripted.client, tools=[PATCH])
    replayed = scripted.scheduler.prompts[-1] + scripted.tokenizer.encode(sampled, special=True)
    output = {"type": "custom_tool_call_output", "call_id": first.output[-1].call_id, "output": "done"}
    create(scripted.client, [{"role": "user", "content": "Hello"}, *(item.to_dict() for item in first.output), output], tools=[PATCH])
    assert scripted.scheduler.prompts[-1][:len(replayed)] == replayed


@pytest.mark.parametrize("format", [{"type": "text", "schema": None, "strict": True}, {"type": "json_object", "name": None}])
def test_what_clients_send_beside_a_format_without_a_schema(scripted, format):
    scripted.scheduler.say("{}")
    answer = httpx.post(scripted.url + "/v1/responses", json={"model": "nano", "input": "Hi", "text": {"format": format}, "user": "a\0b",
                                                              "reasoning": {"effort": "ultra"}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["reasoning"]["effort"] == "max"      # official clients know no "ultra"


def test_log_probabilities_when_they_are_included(nano, url):
    options = {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 2}
    whole = create(official(url), max_output_tokens=5, temperature=0, **OFF, **options)
    found = whole.output[0].content[0].logprobs
    assert "".join(one.token for one in found) == whole.output_text and all(len(one.top_logprobs) == 2 for one in found)
    events = raw(url, max_output_tokens=5, temperature=0, **OFF, **options)
    deltas = [one for event in events if event["type"] == "response.output_text.delta" for one in event["logprobs"]]
    assert deltas == [one.to_dict() for one in found] == events[-1]["response"]["output"][0]["content"][0]["logprobs"]


def test_S08_a_fault_ends_a_stream_with_failed_and_silence_is_filled_with_events(scripted, monkeypatch):
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(("Some", dsvk.NumericError("the logits are not finite")), ("Some", dsvk.DeviceLostError("gone")))
    last = raw(scripted.url, **OFF)[-1]
    assert last["type"] == "response.failed" and set(last["response"]) == set(KEYS) and last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "the logits are not finite"}
    whole = create(scripted.client, **OFF)
    assert (whole.status, whole.output_text, whole.error.code) == ("failed", "Some", "server_error")
    monkeypatch.setattr("dsvk.server.responses.FreeText.feed", lambda *_: 1 / 0)
    scripted.scheduler.say(calls(call("patch", ("input", "true", "x"))))
    last = raw(scripted.url, tools=[PATCH], **OFF)[-1]
    assert last["type"] == "response.failed" and "log" in last["response"]["error"]["message"]
    monkeypatch.setattr("dsvk.server.limits.KEEP_ALIVE_SECONDS", 0.05)
    scripted.scheduler.say(("x", 0.4))
    events = raw(scripted.url, **OFF)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "response.created" and kinds[1:kinds.index("response.output_item.added")].count("response.in_progress") >= 2
    assert kinds.count("response.in_progress") == kinds.index("response.output_item.added") - 1 <= 10


def test_fields_that_are_ignored_may_hold_anything(scripted):
    """Told back where a client could read them."""
    for given, told in (("low", "low"), (3, None), ({"a": 1}, None)):
        scripted.scheduler.answers.clear()
        scripted.scheduler.say("x")
        answer = httpx.post(scripted.url + "/v1/responses", json={
            "model": "nano", "input": "x", "prompt_cache_key": given, "text": {"verbosity": given}, "truncation": given, "store": given,
            "reasoning": {"effort": "none", "summary": given, "context": given}, "service_tier": given, "max_tool_calls": given,
            "client_metadata": given, "context_management": given, "stream_options": given})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["prompt_cache_key"], body["reasoning"]["summary"], body["text"]["verbosity"]) == (told, told, told or "medium")


def item(**fields):
    return {"input": [{"role": "user", "content": "x"}, fields]}


REFUSED = [
    ({"input": None}, "input", "required"), ({"input": 3}, "input", "items"), ({"input": [3]}, "input", "objects"),
    ({"input": []}, "input", "nothing"),
    ({"input": [{"type": "compaction"}]}, "input", "nothing"), ({"instructions": 3}, "instructions", "string"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "whole input"), ({"conversation": "c"}, "conversation", "not supported"),
    ({"background": True}, "background", "not supported"), ({"prompt": {"id": "p"}}, "prompt", "not supported"),
    (item(content="x", type="message"), "input[1].role", "required"), (item(), "input[1].type", "required"),
    (item(role="robot", content="x"), "input[1].role", "robot"), (item(role="user"), "input[1].content", "required"),
    (item(role="user", content=[{"type": "input_image", "image_url": "http://x/y.png"}]), "input[1].content[0].type", "text only"),
    (item(role="user", content=[{"type": "input_file"}]), "input[1].content[0].type", "text only"),
    (item(role="user", content=[{"type": "strange"}]), "input[1].content[0].type", "strange"),
    (item(role="user", content=[{"type": "input_text"}]), "input[1].content[0].text", "required"),
    (item(type="item_reference", id="x"), "input[1].type", "nothing is stored"),
    (item(type="function_call", name="f", arguments="{}"), "input[1].call_id", "required"),
    (item(type="function_call", call_id="c", name="f"), "input[1].arguments", "required"),
    (item(type="function_call", call_id="c", name="f", arguments="{}"), "input[1].call_id", "No tool output found for tool call ID."),
    (item(type="custom_tool_call", call_id="c", name="f"), "input[1].input", "required"),
    (item(type="function_call_output", call_id="c", output="x"), "input[1].call_id", "no unanswered tool call"),
    (item(type="function_call_output", call_id="c"), "input[1].output", "required"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "none, minimal"), ({"reasoning": 1}, "reasoning", "object"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_object"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "required"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "string", "format": "colour"}}}}, "text.format.schema",
     "format"),
    ({"max_output_tokens": 0}, "max_output_tokens", "got 0"), ({"temperature": 2.5}, "temperature", "2.5"),
    ({"top_p": 0}, "top_p", "greater"),
    ({"top_logprobs": 21}, "top_logprobs", "21"), ({"stream": 1}, "stream", "boolean"), ({"include": "x"}, "include", "list"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "required"), ({"tools": [{"name": "f"}]}, "tools[0].type", "required"),
    ({"tools": [{**CLOCK, "name": "a b"}]}, "tools[0].name", "a b"),
    ({"tools": [PATCH, {**CLOCK, "name": "patch"}]}, "tools[1].name", "twice"),
    ({"tools": [{"type": "strange", "name": "f"}]}, "tools[0].type", "strange"),
    ({"tools": [{**CLOCK, "parameters": 3}]}, "tools[0].parameters", "dict"),
    ({"tools": [{"type": "web_search"}, {**MAPS, "tools": [CLOCK, {**CLOCK, "name": "bell", "strict": True, "parameters": {
        "type": "array"}}]}]}, "tools[1].tools[1].parameters", "object"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x"}}]}, "tools[0].format.definition", "lark"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "ebnf", "definition": "x"}}]}, "tools[0].format.syntax", "ebnf"),
    ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "regex"}}]}, "tools[0].format.definition", "required"),
    ({"tools": [{**PATCH, "format": {"type": "xml"}}]}, "tools[0].format.type", "xml"),
    ({"tools": [{**CLOCK, "name": f"f{i}"} for i in range(129)]}, "tools", "128"),
    ({"tool_choice": "required"}, "tool_choice", "required without tools"), ({"tool_choice": "maybe"}, "tool_choice", "none"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "'g'"),
    ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice", "not offered"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "clock", "namespace": 3}}, "tool_choice", "namespace"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "tool_choice", "name"), ({"tool_choice": 3}, "tool_choice", "object"),
    ({"text": {"format": {"name": "x"}}}, "text.format.type", "required"), ({"metadata": 3}, "metadata", "dict")]


@pytest.mark.parametrize("change, param, words", REFUSED)
def test_S01_S02_S17_a_bad_value_is_400_and_names_the_field(url, change, param, words):
    answer = httpx.post(url + "/responses", json={"model": "nano", "input": "Hello", **change})
    error = answer.json()["error"]
    assert (answer.status_code, error.get("param"), error["type"]) == (400, param, "invalid_request_error"), error
    assert words in error["message"] and param in error["message"], error


def test_a_prompt_that_is_too_long_names_the_input(url):
    error = httpx.post(url + "/v1/responses", json={"model": "nano", "input": "word " * 70000}).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input") and "maximum context length" in error["message"]
    assert httpx.post(url + "/v1/responses", json={"model": "gpt-4", "input": "x"}).json()["error"]["code"] == "model_not_found"
