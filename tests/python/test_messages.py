"""The server's Anthropic format by the official client, with strict validation, and the rules of its messages, blocks and tools."""
import asyncio
import json

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client"), pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
httpx = pytest.importorskip("httpx")

import dsvk  # noqa: E402
from dsvk import chat  # noqa: E402
from dsvk.server import Engine  # noqa: E402
from serving import served  # noqa: E402
from test_server import BERN, HELLO, OFF, call, calls, engine, scripted, url  # noqa: E402, F401

WEATHER = {"name": "weather", "description": "Weather of a city", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}
CLOCK = {"name": "clock", "input_schema": {"type": "object"}}


def official(url):
    return anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=60, _strict_response_validation=True)


def create(client, messages=HELLO, **options):
    return client.messages.create(**{"model": "claude-x", "messages": messages, "max_tokens": 500, **options})


def prompt(scripted, messages, **options):
    """The text of the prompt that the messages make."""
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x")
    create(official(scripted.url), messages, **options)
    return scripted.tokenizer.decode(scripted.scheduler.prompts[-1])


def test_an_answer_is_what_the_model_says_and_a_stream_the_same(nano, url):
    text = nano.generate(chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat"), 9, temperature=0)
    whole = create(official(url), max_tokens=9, extra_body={"temperature": 0}, **OFF)
    assert [block.to_dict() for block in whole.content] == [{"type": "text", "text": text}]
    assert (whole.model, whole.role, whole.stop_reason, whole.stop_sequence) == ("nano", "assistant", "max_tokens", None)
    usage = whole.usage
    assert usage.output_tokens == 9 and usage.cache_creation_input_tokens == 0
    n = official(url).messages.count_tokens(model="nano", messages=HELLO, **OFF).input_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens == n
    with official(url).messages.stream(model="nano", messages=HELLO, max_tokens=9, extra_body={"temperature": 0}, **OFF) as stream:
        assert "".join(stream.text_stream) == text
        final = stream.get_final_message()
    assert (final.stop_reason, final.content[0].text, final.usage.output_tokens) == ("max_tokens", text, 9)


def test_the_asynchronous_client(nano, url):
    options = {"model": "nano", "messages": HELLO, "max_tokens": 5, "extra_body": {"temperature": 0}, **OFF}

    async def run():
        async with anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0, timeout=60,
                                            _strict_response_validation=True) as client:
            async with client.messages.stream(**options) as stream:
                text = "".join([piece async for piece in stream.text_stream])
            return text, (await client.messages.create(**options)).content[0].text
    text = nano.generate(chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat"), 5, temperature=0)
    assert asyncio.run(run()) == (text, text)


def test_a_stop_sequence_is_named(nano, url):
    text = nano.generate(chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat"), 12, temperature=0)
    stop = text[4:7]
    answer = create(official(url), max_tokens=12, stop_sequences=["nowhere", stop], extra_body={"temperature": 0}, **OFF)
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert answer.content[0].text == text[:text.index(stop)]


def test_a_context_that_is_full_is_said(nano):
    n = len(chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat"))
    with served(Engine(nano, "nano", context=n + 4)) as url:
        for limit, reason in ((500, "model_context_window_exceeded"), (3, "max_tokens")):
            answer = create(official(url), max_tokens=limit, extra_body={"temperature": 0}, **OFF)
            assert (answer.stop_reason, answer.usage.output_tokens) == (reason, min(limit, 4))


def test_thoughts_text_and_calls_whole_and_as_a_stream(scripted):
    said = "Look.</think>I will." + calls(BERN, call("clock"))
    scripted.scheduler.say(said, said)
    client = official(scripted.url)
    whole = create(client, tools=[WEATHER, CLOCK])
    thinking, text, weather, clock = whole.content
    assert (thinking.type, thinking.thinking, text.text) == ("thinking", "Look.", "I will.") and thinking.signature
    assert (weather.name, weather.input) == ("weather", {"city": 'Bern "old"', "days": 1}) and (clock.name, clock.input) == ("clock", {})
    assert weather.id.startswith("toolu_") and whole.stop_reason == "tool_use"
    assert whole.usage.output_tokens_details.thinking_tokens > 0
    with client.messages.stream(model="nano", messages=HELLO, max_tokens=500, tools=[WEATHER, CLOCK]) as stream:
        kinds = [event.type for event in stream if event.type.startswith(("message_", "content_block_"))]
        final = stream.get_final_message()
    assert [block.to_dict() | {"id": 0} for block in final.content] == [block.to_dict() | {"id": 0} for block in whole.content]
    assert final.stop_reason == "tool_use" and final.usage.output_tokens == whole.usage.output_tokens
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])


def test_a_stream_is_named_events_to_the_letter(scripted):
    scripted.scheduler.say("Why?</think>Yes.")
    answer = httpx.post(scripted.url + "/anthropic/v1/messages?beta=true", json={
        "model": "claude-x", "max_tokens": 99, "messages": HELLO, "stream": True, "context_management": {}, "mcp_servers": [],
        "container": "c", "service_tier": 3, "inference_geo": {"x": 1}, "speed": "fast", "diagnostics": [1], "cache_control": {"type": "ephemeral"}})
    *events, rest = answer.text.split("\n\n")
    assert rest == "" and "[DONE]" not in answer.text
    found = []
    for event in events:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + found[-1]["type"]
    assert found[0]["message"]["content"] == [] and found[0]["message"]["stop_reason"] is None
    signed = [event["index"] for event in found if event.get("delta", {}).get("type") == "signature_delta"]
    starts = [(event["index"], event["content_block"]) for event in found if event["type"] == "content_block_start"]
    assert signed == [0] and starts == [(0, {"type": "thinking", "thinking": "", "signature": ""}), (1, {"type": "text", "text": ""})]


def test_the_next_turn_repeats_a_call_as_it_was_sampled(scripted):
    sampled = "Hm.</think>Right" + calls(BERN.replace(">\n", ">  \n"))
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(sampled, "x")
    first = create(official(scripted.url), tools=[WEATHER])
    replayed = scripted.scheduler.prompts[-1] + scripted.tokenizer.encode(sampled, special=True)
    result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": [{"type": "text", "text": "20 degrees"}]}
    create(official(scripted.url), HELLO + [{"role": "assistant", "content": [block.to_dict() for block in first.content]},
                                            {"role": "user", "content": [result]}], tools=[WEATHER])
    assert scripted.scheduler.prompts[-1][:len(replayed)] == replayed


def uses(*ids):
    return {"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "clock", "input": {"a": 1}} for id in ids]}


def result(id, content="done"):
    return {"type": "tool_result", "tool_use_id": id, "content": content}


def test_results_come_first_and_in_the_order_of_their_calls(scripted):
    text = prompt(scripted, HELLO + [uses("a", "b"), {"role": "user", "content": [
        {"type": "text", "text": "And now?"}, result("b", "of b"), result("a", [{"type": "text", "text": "of a"}])]}], tools=[CLOCK])
    assert "<tool_result>of a</tool_result>\n\n<tool_result>of b</tool_result>\n\nAnd now?<｜Assistant｜>" in text


def test_neighbouring_messages_of_the_user_are_one(scripted):
    messages = HELLO + [uses("a", "b"), {"role": "user", "content": [result("b", "of b"), {"type": "text", "text": "And?"}]},
                        {"role": "user", "content": [result("a", "of a")]}, {"role": "user", "content": "Now?"}]
    together = messages[:2] + [{"role": "user", "content": [result("b", "of b"), result("a", "of a"), {"type": "text", "text": "And?"},
                                                            {"type": "text", "text": "Now?"}]}]
    text = prompt(scripted, messages, tools=[CLOCK])
    assert text == prompt(scripted, together, tools=[CLOCK])
    assert "<tool_result>of a</tool_result>\n\n<tool_result>of b</tool_result>\n\nAnd?\n\nNow?<｜Assistant｜>" in text


def test_what_tools_elsewhere_did_and_their_definitions_are_skipped(scripted):
    ran = [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, {"type": "mcp_tool_use", "id": "m", "name": "x"},
           {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, {"type": "mcp_tool_result", "tool_use_id": "m"}]
    tools = [{"type": "mcp_toolset", "mcp_server_name": "x"}, {"type": "web_search_20250305", "name": "web_search"}]
    said = [{"role": "user", "content": "Look."}, {"role": "assistant", "content": [*ran, {"type": "text", "text": "So."}]},
            {"role": "user", "content": [*ran, {"type": "text", "text": "Hello"}]}]
    body = {"model": "nano", "max_tokens": 5, **OFF}
    for messages, more in ((said, {"tools": tools}), ([said[0], {"role": "assistant", "content": "So."}, *HELLO], {})):
        scripted.scheduler.answers.clear()
        scripted.scheduler.say("x")
        assert httpx.post(scripted.url + "/v1/messages", json={**body, "messages": messages, **more}).status_code == 200
    assert scripted.scheduler.prompts[-1] == scripted.scheduler.prompts[-2]


def test_system_texts_and_what_changes_with_a_clients_build(scripted):
    system = [{"type": "text", "text": "x-anthropic-billing-header: cc=1"}, {"type": "text", "text": "One.", "cache_control": {}},
              {"type": "text", "text": "Two."}]
    text = prompt(scripted, HELLO + [{"role": "system", "content": "Three."}], system=system, **OFF)
    assert text == "<｜begin▁of▁sentence｜>One.\n\nTwo.<｜User｜>Hello\n\nThree.<｜Assistant｜></think>"


def test_a_final_assistant_message_is_continued_and_neighbours_are_one(scripted):
    text = prompt(scripted, HELLO + [{"role": "assistant", "content": "It "}, {"role": "assistant", "content": [
        {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "is"}]}], **OFF)
    assert text.endswith("<｜Assistant｜></think>It is")


def test_a_deferred_tool_is_defined_where_it_is_referenced(scripted):
    later = {**WEATHER, "defer_loading": True}
    search = {"type": "tool_search_x", "name": "search"}
    assert "weather" not in prompt(scripted, HELLO, tools=[CLOCK, later, search])
    text = prompt(scripted, HELLO + [uses("a"), {"role": "user", "content": [
        result("a", [{"type": "tool_reference", "tool_name": "weather"}])]}], tools=[CLOCK, later])
    assert text.count('{"name": "weather"') == 1 and '<tool_result>{"name": "weather"' in text


def test_a_deferred_tool_can_be_forced_once_it_is_referenced(scripted):
    pytest.importorskip("llguidance")
    search = {**CLOCK, "defer_loading": False}
    later = {**WEATHER, "defer_loading": True}
    told = HELLO + [uses("a"), {"role": "user", "content": [result("a", [{"type": "tool_reference", "tool_name": "weather"}])]}]
    for tools, choice in (([search, later], {"type": "tool", "name": "weather"}), ([later], {"type": "any"})):
        prompt(scripted, told, tools=tools, tool_choice=choice)
        grammar = scripted.scheduler.options[-1]["constraint"]
        assert grammar is not None
        for messages in (HELLO, HELLO + [uses("a"), {"role": "user", "content": [result("a")]}]):
            refused = httpx.post(scripted.url + "/v1/messages", json={"model": "nano", "max_tokens": 5, "messages": messages,
                                                                      "tools": tools, "tool_choice": choice})
            assert refused.status_code == 400 and "tool_choice" in refused.json()["error"]["message"]


def test_models_by_the_official_client(url, engine):
    listed = official(url).models.list(limit=5)
    assert [model.id for model in listed.data] == ["nano"] and listed.data[0].max_input_tokens == engine.context
    assert official(url).models.retrieve("nano").lifecycle == "active"
    for path in ("/anthropic/v1/models", "/anthropic/v1/models/nano?beta=true"):
        assert httpx.get(url + path).json().get("id", "nano") == "nano"
    missing = httpx.get(url + "/anthropic/v1/models/other")
    assert missing.status_code == 404 and missing.json()["error"]["type"] == "not_found_error"


def test_counting_takes_no_turn(scripted):
    before = len(scripted.scheduler.prompts)
    body = {"model": "nano", "messages": HELLO, "system": "Be brief.", "tools": [WEATHER]}
    n = official(scripted.url).messages.count_tokens(**body).input_tokens
    assert httpx.post(scripted.url + "/anthropic/v1/messages/count_tokens", json=body).json() == {"input_tokens": n}
    assert len(scripted.scheduler.prompts) == before
    prompt(scripted, HELLO, system="Be brief.", tools=[WEATHER])
    assert n == len(scripted.scheduler.prompts[-1])


@pytest.mark.parametrize("change, words", [
    ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content: block 0: expected an object, got str"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: expected text or a list of blocks, got int"),
    ({"system": 5}, "system: expected text or a list of blocks, got int"),
    ({"system": [[]]}, "system: block 0: expected an object, got list"),
    ({"stop_sequences": "x"}, "stop_sequences: expected a list of texts, got a text"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"), ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type: this model reads text only"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "text only"),
    ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "text only"),
    ({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}, "text only"),
    ({"messages": [{"role": "user", "content": [{"type": "strange"}]}]}, "'strange'"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [result("a")]}]}, "messages[0].content[0].tool_use_id"),
    ({"messages": HELLO + [uses("a")]}, "messages[1].content[0].id: No tool output found for tool call ID."),
    ({"messages": HELLO + [uses("a")] + HELLO}, "messages[1].content[0].id"), ({"messages": HELLO + [uses("a", "a")]}, "twice"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": 3}]}]}, "content[0].content"),
    ({"messages": [{"role": "user", "content": [result("a", [{"type": "tool_reference", "tool_name": "q"}])]}]}, "tool_name"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "x"}]}]}, "content[0].input"),
    ({"system": 3}, "system"), ({"system": [{"type": "image"}]}, "system[0].type"), ({"thinking": {"type": "some"}}, "thinking.type"),
    ({"temperature": 3}, "temperature"), ({"top_p": 0}, "top_p"), ({"top_k": -1}, "top_k"), ({"stop_sequences": [1]}, "stop_sequences"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"), ({"metadata": {"user_id": 3}}, "metadata.user_id"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"), ({"tools": [CLOCK, CLOCK]}, "tools[1].name"),
    *(({"tools": [{"type": kind, "name": "x"}]}, "tools[0].type") for kind in (
        "bash_20250124", "text_editor_20250728", "computer_20250124", "memory_20250818")), ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{**CLOCK, "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{**CLOCK, "name": f"f{i}"} for i in range(129)]}, "at most 128"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: any without tools"), ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"tools": [CLOCK], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name")])
def test_S01_S02_a_bad_value_is_400_in_anthropics_shape(url, change, words):
    answer = httpx.post(url + "/v1/messages", json={"model": "nano", "messages": HELLO, "max_tokens": 5, **change})
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert words in body["error"]["message"] and body["request_id"] == answer.headers["request-id"], body


def test_other_faults_in_anthropics_shape(url, engine, scripted):
    long = {"model": "nano", "messages": [{"role": "user", "content": "word " * engine.context}], "max_tokens": 5}
    answer = httpx.post(url + "/v1/messages", json=long)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith("prompt is too long: ")
    assert answer.json()["error"]["message"].endswith(f" tokens > {engine.context} maximum")
    for path, body, status, kind in (("/v1/messages", {**long, "model": "gpt-4"}, 404, "not_found_error"),
                                     ("/anthropic/v1/nothing", {}, 404, "not_found_error"),
                                     ("/anthropic", {}, 405, "invalid_request_error"),
                                     ("/v1/messages", b'{"a":1,"a":2}', 400, "invalid_request_error"),
                                     ("/v1/messages", b"[" + b"0," * 1_200_000, 413, "request_too_large")):
        answer = httpx.post(url + path, **({"content": body} if isinstance(body, bytes) else {"json": body}),
                            headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"], answer.json()["type"]) == (status, kind, "error")
    elsewhere = httpx.post(url + "/v1/messages/batches", json={})      # an unknown path, and not below /anthropic
    assert elsewhere.status_code == 404 and elsewhere.json().keys() == {"error"} and elsewhere.json()["error"]["code"] == "not_found"
    for refusal, status, kind in ((dsvk.BusyError("full"), 429, "rate_limit_error"), (dsvk.StateError("closed"), 529, "overloaded_error"),
                                  (dsvk.NumericError("nan"), 500, "api_error")):
        scripted.scheduler.refusal = refusal
        try:
            answer = httpx.post(scripted.url + "/v1/messages", json={"model": "nano", "messages": HELLO, "max_tokens": 5})
        finally:
            scripted.scheduler.refusal = None
        assert (answer.status_code, answer.json()["error"]) == (status, {"type": kind, "message": str(refusal)})
    scripted.scheduler.say(("Some", dsvk.DeviceLostError("gone")))
    answer = httpx.post(scripted.url + "/v1/messages", json={"model": "nano", "messages": HELLO, "max_tokens": 5, "stream": True, **OFF})
    last = answer.text.rstrip("\n").split("\n\n")[-1]
    assert last.startswith("event: error\ndata: ") and '"overloaded_error"' in last
