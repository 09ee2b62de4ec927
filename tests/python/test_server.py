"""The server's chat format by the official client, with strict validation: nano for what a model really does, a script for tool
calls; every refusal by a table; clients that go away."""
import asyncio
import gzip
import json
import time

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

import dsvk  # noqa: E402
from dsvk import chat  # noqa: E402
from dsvk.cli import main  # noqa: E402
from dsvk.server import Engine  # noqa: E402
from serving import Script, served  # noqa: E402

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "default": None}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
OFF = {"thinking": {"type": "disabled"}}


def call(name, *parameters):
    return f'<｜DSML｜invoke name="{name}">\n' + "".join(
        f'<｜DSML｜parameter name="{key}" string="{string}">{value}</｜DSML｜parameter>\n' for key, string, value in parameters
    ) + "</｜DSML｜invoke>\n"


def calls(*texts):
    return "\n\n<｜DSML｜tool_calls>\n" + "".join(texts) + "</｜DSML｜tool_calls>"


BERN = call("weather", ("city", "true", 'Bern "old"'), ("days", "false", "1"))


@pytest.fixture(scope="module")
def engine(nano):
    return Engine(nano, "nano")


@pytest.fixture(scope="module")
def url(engine):
    with served(engine) as url:
        yield url


def official(url, kind=openai.OpenAI, **options):
    return kind(base_url=url + "/v1", api_key="any", max_retries=0, timeout=60, _strict_response_validation=True, **options)


@pytest.fixture(scope="module")
def client(url):
    return official(url)


@pytest.fixture(scope="module")
def scripted(nano):
    """An engine whose model says what a test wrote, and its client."""
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    with served(engine) as url:
        engine.client, engine.url = official(url), url
        yield engine


def create(client, messages=HELLO, thinking=True, **options):
    extra = {**({} if thinking else OFF), **options.pop("extra_body", {})}
    return client.chat.completions.create(model="nano", messages=messages, extra_body=extra, **options)


def gathered(stream):
    """A stream put together: a choice's texts, calls, logprobs and finish, by index; and the usages."""
    choices, usages = {}, []
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk" and chunk.model == "nano"
        if chunk.usage is not None:
            usages.append(chunk.usage)
        for one in chunk.choices:
            choice = choices.setdefault(one.index, {"content": "", "reasoning": "", "calls": [], "logprobs": [], "finish": None,
                                                    "deltas": []})
            assert choice["finish"] is None, "a chunk behind the last"
            choice["deltas"].append(one.delta.model_dump(exclude_unset=True))
            choice["content"] += one.delta.content or ""
            choice["reasoning"] += getattr(one.delta, "reasoning_content", None) or ""
            for part in one.delta.tool_calls or []:
                if part.id:
                    assert part.index == len(choice["calls"])
                    choice["calls"].append([part.id, part.function.name, ""])
                choice["calls"][part.index][2] += part.function.arguments
            if one.logprobs:
                choice["logprobs"] += (one.logprobs.reasoning_content or []) + [t.model_dump() for t in one.logprobs.content]
            choice["finish"] = one.finish_reason
    return choices, usages


# ---- what a model really says ----

def expected(nano, n, thinking, **options):
    prompt = chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="thinking" if thinking else "chat")
    return nano.generate(prompt, n, temperature=0, **options)


def test_an_answer_is_what_the_model_says_and_a_stream_the_same(nano, client):
    for thinking in (True, False):
        whole = create(client, thinking=thinking, max_tokens=9, temperature=0)
        message = whole.choices[0].message
        said = chat.parse(expected(nano, 9, thinking), "thinking" if thinking else "chat")
        thought, text = said.get("reasoning_content", ""), said["content"]
        assert (getattr(message, "reasoning_content", None), message.content) == (thought if thinking else None, text)
        assert whole.choices[0].logprobs is None and whole.system_fingerprint.startswith("fp_")
        choices, usages = gathered(create(client, thinking=thinking, max_tokens=9, temperature=0, stream=True,
                                          stream_options={"include_usage": True}))
        assert (choices[0]["reasoning"], choices[0]["content"]) == (thought, text)
        assert choices[0]["finish"] == whole.choices[0].finish_reason
        assert choices[0]["deltas"][0] == ({"role": "assistant", "content": None, "reasoning_content": ""} if thinking else
                                           {"role": "assistant", "content": ""})
        told, = usages
        assert (told.prompt_tokens, told.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)


def test_usage_counts_the_prompt_the_answer_the_thoughts_and_what_was_kept(nano, client):
    messages = [{"role": "user", "content": "What is kept is found again. " * 12}]
    prompt = chat.encode_ids(nano.tokenizer, messages)
    first, second = (create(client, messages, max_tokens=3, temperature=0).usage for _ in range(2))
    assert first.prompt_tokens == second.prompt_tokens == len(prompt)
    assert first.total_tokens == len(prompt) + first.completion_tokens
    assert first.prompt_cache_hit_tokens == 0 and first.prompt_cache_miss_tokens == len(prompt)
    assert 0 < second.prompt_cache_hit_tokens == second.prompt_tokens_details.cached_tokens <= len(prompt)
    assert second.prompt_cache_hit_tokens + second.prompt_cache_miss_tokens == len(prompt)
    assert 0 < first.completion_tokens == first.completion_tokens_details.reasoning_tokens <= 3


def test_what_one_user_left_another_does_not_find_when_they_are_apart(nano):
    said = [{"role": "user", "content": "What is kept is found again. " * 12}]
    formats = (("chat/completions", lambda user: {"messages": said, "user_id": user, "max_tokens": 2, **OFF}),
               ("messages", lambda user: {"messages": said, "metadata": {"user_id": user}, "max_tokens": 2, **OFF}))
    for apart in (True, False):
        engine = Engine(nano, "nano", isolate=apart)
        with served(engine) as url:
            def kept(path, body):
                usage = httpx.post(f"{url}/v1/{path}", json={"model": "nano", **body}, timeout=60).json()["usage"]
                return usage["prompt_tokens_details"]["cached_tokens"] if "prompt_tokens" in usage else usage["cache_read_input_tokens"]

            first, again, other = [kept(*formats[0][:1], formats[0][1](user)) for user in ("ada", "ada", "{\"id\": 2}")]
            assert first == 0 < again and (other == 0) == apart
            assert (kept("messages", formats[1][1]("eve")) == 0) == apart and kept("messages", formats[1][1]("ada")) > 0


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(nano, client):
    text = expected(nano, 12, False)
    stop = text[4:7]                                        # lies across tokens: nano's are short
    for stops in (stop, ["nowhere", stop]):
        whole = create(client, thinking=False, max_tokens=12, temperature=0, stop=stops)
        assert whole.choices[0].message.content == text[:text.index(stop)] and whole.choices[0].finish_reason == "stop"
        choices, _ = gathered(create(client, thinking=False, max_tokens=12, temperature=0, stop=stops, stream=True))
        assert choices[0]["content"] == text[:text.index(stop)] and choices[0]["finish"] == "stop"


def test_stop_texts_are_not_looked_for_in_thoughts(nano, client):
    text = chat.parse(expected(nano, 9, True), "thinking")["reasoning_content"]
    thought = create(client, max_tokens=9, temperature=0, stop=text[2:4]).choices[0].message
    assert thought.reasoning_content == text


def test_a_seed_gives_the_same_and_choices_differ(client):
    def texts(seed, n=1):
        answer = create(client, thinking=False, max_tokens=12, temperature=2, seed=seed, n=n)     # nano is sure of what to say
        assert [choice.index for choice in answer.choices] == list(range(n))
        return [choice.message.content for choice in answer.choices], answer.usage
    (first,), _ = texts(5)
    assert texts(5)[0] == [first] and texts(-9)[0] == texts(-9)[0] != [first]
    three, usage = texts(5, 3)
    assert three[0] == first and len(set(three)) == 3
    assert usage.completion_tokens > 12
    choices, _ = gathered(create(client, thinking=False, max_tokens=12, temperature=2, seed=5, n=3, stream=True))
    assert [choices[i]["content"] for i in range(3)] == three


def test_log_probabilities_of_every_token(nano, client):
    whole = create(client, thinking=False, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3).choices[0]
    tokens = whole.logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == whole.message.content == expected(nano, 6, False)
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob < 0
        assert token.top_logprobs[0].token == token.token
    choices, _ = gathered(create(client, thinking=False, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3, stream=True))
    assert choices[0]["logprobs"] == [token.model_dump() for token in tokens]
    for at in range(1, 6):      # of a stop text there is nothing, of a token that begins before it all
        stop = "".join(token.token for token in tokens[at:])
        cut = create(client, thinking=False, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3, stop=stop).choices[0]
        if tokens[at].token.strip():      # ... which white space might
            assert (cut.message.content, cut.logprobs.content) == ("".join(token.token for token in tokens[:at]), tokens[:at])
    thought = create(client, max_tokens=3, temperature=0, logprobs=True).choices[0].logprobs
    assert thought.content == [] and len(thought.reasoning_content) == 3 and thought.reasoning_content[0]["top_logprobs"] == []


def test_the_asynchronous_client_gets_many_answers_at_once(url, nano):
    async def run():
        async with official(url, openai.AsyncOpenAI) as client:
            async def one(i):
                stream = await client.chat.completions.create(model="nano", messages=HELLO, max_tokens=5 + i % 3, temperature=0,
                                                              stream=True, extra_body=OFF)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return await asyncio.gather(*(one(i) for i in range(24)))
    texts = [expected(nano, 5 + i, False) for i in range(3)]
    assert asyncio.run(run()) == [texts[i % 3] for i in range(24)]


def test_an_answer_that_was_begun_is_continued(nano, client):
    messages = HELLO + [{"role": "assistant", "content": "PAUL", "prefix": True}]
    prompt = chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat") + nano.tokenizer.encode("PAUL")
    answer = create(client, messages, thinking=False, max_tokens=6, temperature=0).choices[0].message.content
    assert answer == nano.generate(prompt, 6, temperature=0)


# ---- modes, efforts, names ----

@pytest.mark.parametrize("model, extra, mode, effort", [
    ("nano", {}, "thinking", "high"), ("nano", {"thinking": {"type": "adaptive"}}, "thinking", "high"),
    ("nano", {"thinking": None, "reasoning_effort": None}, "thinking", "high"), ("nano", OFF, "chat", None),
    ("nano", {"reasoning_effort": "none"}, "chat", None), ("nano", {"reasoning_effort": "ultra"}, "thinking", "max"),
    ("nano", {"reasoning_effort": "minimal"}, "thinking", "low"), ("nano", {**OFF, "reasoning_effort": "max"}, "chat", None),
    ("nano", {"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, "thinking", "high"),
    ("deepseek-chat", {"reasoning_effort": "max"}, "chat", None), ("deepseek-reasoner", {}, "thinking", "high"),
    ("deepseek-v4-flash[1m]", {}, "thinking", "high"), ("claude-x", {}, "thinking", "high")])
def test_mode_and_effort(scripted, nano, model, extra, mode, effort):
    scripted.scheduler.say("Yes." if mode == "chat" else "Why?</think>Yes.")
    answer = scripted.client.chat.completions.create(model=model, messages=HELLO, extra_body=extra)
    assert scripted.scheduler.prompts[-1] == chat.encode_ids(nano.tokenizer, HELLO, thinking_mode=mode, reasoning_effort=effort)
    assert answer.model == "nano" and answer.choices[0].message.content == "Yes."
    assert getattr(answer.choices[0].message, "reasoning_content", None) == ("Why?" if mode == "thinking" else None)
    if mode == "thinking":      # the end of thinking counts, and is no thought
        usage = answer.usage
        assert usage.completion_tokens_details.reasoning_tokens == len(nano.tokenizer.encode("Why?"))
        assert usage.completion_tokens == len(nano.tokenizer.encode("Why?</think>Yes.", special=True))


def test_the_smaller_limit_counts_and_all_of_sampling_arrives(scripted):
    scripted.scheduler.say("x")
    create(scripted.client, max_tokens=7, max_completion_tokens=5, temperature=0.5, top_p=0.25, seed=-1, user="ada",
           extra_body={"top_k": 4, "min_p": 0.125})
    given = scripted.scheduler.options[-1]
    assert {name: given[name] for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "owner")} == {
        "max_tokens": 5, "temperature": 0.5, "top_p": 0.25, "top_k": 4, "min_p": 0.125, "seed": 2 ** 64 - 1, "owner": "ada"}
    scripted.scheduler.say("x")
    create(scripted.client, max_tokens=2 ** 40, presence_penalty=1)      # no effect in thinking mode, and no error
    assert scripted.scheduler.options[-1]["max_tokens"] == scripted.context


# ---- tools ----

def test_tool_calls_whole_and_in_pieces(scripted):
    answer = "Look.</think>I will." + calls(BERN, call("clock"))
    scripted.scheduler.say(answer, answer)
    whole = create(scripted.client, tools=[WEATHER, CLOCK]).choices[0]
    assert (whole.message.reasoning_content, whole.message.content, whole.finish_reason) == ("Look.", "I will.", "tool_calls")
    assert [(c.function.name, json.loads(c.function.arguments)) for c in whole.message.tool_calls] == [
        ("weather", {"city": 'Bern "old"', "days": 1}), ("clock", {})]
    assert len({c.id for c in whole.message.tool_calls}) == 2 and all(c.id.startswith("call_") for c in whole.message.tool_calls)
    choices, _ = gathered(create(scripted.client, tools=[WEATHER, CLOCK], stream=True))
    assert [(name, arguments) for _, name, arguments in choices[0]["calls"]] == [
        (c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    assert (choices[0]["reasoning"], choices[0]["content"], choices[0]["finish"]) == ("Look.", "I will.", "tool_calls")
    pieces = [d for d in choices[0]["deltas"] if "tool_calls" in d]
    assert len(pieces) > 6 and pieces[0]["tool_calls"][0]["function"] == {"name": "weather", "arguments": ""}


def test_only_calls_have_empty_content(scripted):
    scripted.scheduler.say(calls(call("clock")).lstrip())
    message = create(scripted.client, thinking=False, tools=[CLOCK]).choices[0].message
    assert message.content == "" and message.tool_calls[0].function.arguments == "{}"


def test_one_call_when_they_may_not_be_parallel(scripted):
    scripted.scheduler.say(calls(BERN, call("clock")))
    choice = create(scripted.client, thinking=False, tools=[WEATHER, CLOCK], parallel_tool_calls=False).choices[0]
    assert [c.function.name for c in choice.message.tool_calls] == ["weather"] and choice.finish_reason == "tool_calls"


def test_tools_that_may_not_be_called_are_not_offered(scripted, nano):
    scripted.scheduler.say("No." + calls(call("clock")))
    choice = create(scripted.client, thinking=False, tools=[CLOCK], tool_choice="none").choices[0]
    assert scripted.scheduler.prompts[-1] == chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="chat")
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("No.", None, "stop")


def test_a_call_that_is_cut_is_still_json_and_the_finish_is_length(scripted, nano):
    text = calls(BERN)
    scripted.scheduler.say(text)
    n = len(nano.tokenizer.encode(text[:text.index("old")], special=True))
    choice = create(scripted.client, thinking=False, tools=[WEATHER], max_tokens=n).choices[0]
    assert choice.finish_reason == "length"
    assert json.loads(choice.message.tool_calls[0].function.arguments)["city"].startswith("Bern")


def test_the_next_turn_repeats_a_call_as_it_was_sampled(scripted, nano):
    sampled = "Hm.</think>Right" + calls(BERN.replace(">\n", ">  \n"))      # white space that nobody would write again
    scripted.scheduler.say(sampled, "Warm.</think>Warm.")
    first = create(scripted.client, tools=[WEATHER]).choices[0].message
    prompt = scripted.scheduler.prompts[-1]
    turn = {"role": "assistant", "content": first.content, "tool_calls": [c.model_dump() for c in first.tool_calls]}
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": [{"type": "text", "text": "20 "},
                                                                                {"type": "text", "text": "degrees"}]}
    create(scripted.client, HELLO + [turn, result], tools=[WEATHER])
    again = scripted.scheduler.prompts[-1]
    replayed = prompt + nano.tokenizer.encode(sampled, special=True)
    assert again[:len(replayed)] == replayed
    assert "<tool_result>20 degrees</tool_result>" in nano.tokenizer.decode(again[len(replayed):])


def test_a_turn_that_lost_a_call_is_not_repeated_as_it_was_sampled(scripted, nano):
    scripted.scheduler.say("Hm.</think>" + calls(BERN, BERN), "x")
    first = create(scripted.client, tools=[WEATHER]).choices[0].message
    kept = first.tool_calls[0]
    turn = {"role": "assistant", "content": first.content, "tool_calls": [kept.model_dump()]}
    create(scripted.client, HELLO + [turn, {"role": "tool", "tool_call_id": kept.id, "content": "20"}], tools=[WEATHER])
    assert len(first.tool_calls) == 2
    assert nano.tokenizer.decode(scripted.scheduler.prompts[-1]).split("<｜Assistant｜>")[1].count("Bern") == 1


def test_results_come_in_the_order_of_their_calls(scripted, nano):
    scripted.scheduler.say("x")
    turn = {"role": "assistant", "content": None, "reasoning_content": "Both.", "tool_calls": [
        {"id": id, "type": "function", "function": {"name": "clock", "arguments": "not json"}} for id in ("a", "b")]}
    results = [{"role": "tool", "tool_call_id": id, "content": f"of {id}"} for id in ("b", "a")]
    create(scripted.client, HELLO + [turn] + results, tools=[CLOCK])
    text = nano.tokenizer.decode(scripted.scheduler.prompts[-1])
    assert text.index("of a") < text.index("of b") and "Both.</think>" in text and "not json" in text


def test_a_system_message_may_stand_anywhere(scripted, nano):
    brief, answered = {"role": "developer", "content": "Be brief."}, [{"role": "assistant", "content": "Hi."}]
    for messages, end in ((HELLO + [brief], "<｜User｜>Hello\n\nBe brief.<｜Assistant｜></think>"),
                          (HELLO + [brief] + answered + HELLO, "<｜User｜>Hello\n\nBe brief.<｜Assistant｜></think>Hi.<｜end▁of▁sentence｜>"
                           "<｜User｜>Hello<｜Assistant｜></think>"),
                          (HELLO + answered + [brief], "Hi.<｜end▁of▁sentence｜>Be brief.<｜User｜><｜Assistant｜></think>"),
                          ([brief], "Be brief.<｜User｜><｜Assistant｜></think>")):
        scripted.scheduler.say("x")
        create(scripted.client, messages, thinking=False)
        assert nano.tokenizer.decode(scripted.scheduler.prompts[-1]).endswith(end)


def test_thoughts_of_earlier_turns_stay_when_there_are_tools(scripted, nano):
    history = HELLO + [{"role": "assistant", "content": "Hi.", "reasoning_content": "Greet."}] + HELLO
    for tools, kept in (([], False), ([CLOCK], True)):
        scripted.scheduler.say("x")
        create(scripted.client, history, **({"tools": tools} if tools else {}))
        assert ("Greet." in nano.tokenizer.decode(scripted.scheduler.prompts[-1])) == kept


# ---- faults behind the door ----

def test_S06_S07_a_full_queue_is_429_and_a_closed_scheduler_503(scripted):
    for refusal, status, type, code in (
            (dsvk.BusyError("1024 requests wait, at most 1024"), 429, "rate_limit_error", "rate_limit_exceeded"),
            (dsvk.StateError("the scheduler is closed"), 503, "service_unavailable_error", "server_is_overloaded"),
            (dsvk.NumericError("the logits are not finite"), 500, "server_error", "server_error")):
        scripted.scheduler.refusal = refusal
        try:
            answer = httpx.post(scripted.url + "/v1/chat/completions", json={"model": "nano", "messages": HELLO, "stream": True})
        finally:
            scripted.scheduler.refusal = None
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"], error["message"]) == (status, type, code, str(refusal))
        assert ("retry-after" in answer.headers) == (status != 500)


def test_S08_a_fault_in_a_stream_is_its_last_event(scripted):
    scripted.scheduler.say(("Some", dsvk.NumericError("the logits are not finite")))
    lines = [line for line in httpx.post(scripted.url + "/v1/chat/completions", json={
        "model": "nano", "messages": HELLO, "stream": True}).text.split("\n\n") if line]
    last = json.loads(lines[-1].removeprefix("data: "))
    assert last.pop("usage")["completion_tokens"] == len(scripted.tokenizer.encode("Some"))
    assert last == {"error": {"message": "the logits are not finite", "type": "server_error", "param": None, "code": "server_error"}}
    scripted.scheduler.say(("Some", dsvk.DeviceLostError("gone")))
    choice, = httpx.post(scripted.url + "/v1/chat/completions", json={"model": "nano", "messages": HELLO, **OFF}).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Some", "insufficient_system_resource")


def test_errors_tell_what_was_done_before_them(scripted):
    """api.md 2.5: whole or as a stream, in every format; what was refused before anything was done tells nothing."""
    some = len(scripted.tokenizer.encode("Some"))
    for path, body, prompt, completion in (
            ("chat/completions", {"messages": HELLO, **OFF}, "prompt_tokens", "completion_tokens"),
            ("completions", {"prompt": "x"}, "prompt_tokens", "completion_tokens"),
            ("responses", {"input": "Hello", "reasoning": {"effort": "none"}}, "input_tokens", "output_tokens"),
            ("messages", {"messages": HELLO, "max_tokens": 9, **OFF}, "input_tokens", "output_tokens")):
        for stream in (False, True):
            scripted.scheduler.answers.clear()
            scripted.scheduler.say(("Some", dsvk.NumericError("the logits are not finite")))
            answer = httpx.post(f"{scripted.url}/v1/{path}", json={"model": "nano", "stream": stream, **body})
            told = json.loads(answer.text.rstrip().rpartition("data: ")[2]) if stream else answer.json()
            told = told.get("response", told)
            assert answer.status_code == (200 if stream else 500) and "not finite" in told["error"]["message"]
            assert told["usage"][completion] == some and told["usage"][prompt] == len(scripted.scheduler.prompts[-1])
        refused = httpx.post(f"{scripted.url}/v1/{path}", json={"model": "nano", **body, "temperature": 9})
        assert refused.status_code == 400 and "usage" not in refused.json()


def test_a_silent_stream_shows_signs_of_life(scripted, monkeypatch):
    """Anthropic's begins with its start, which is the first of them."""
    monkeypatch.setattr("dsvk.server.limits.KEEP_ALIVE_SECONDS", 0.05)
    for path, begun, sign in (("chat/completions", 0, ": keep-alive"), ("messages", 1, 'event: ping\ndata: {"type":"ping"}')):
        scripted.scheduler.say(("x", 0.4))
        *events, rest = httpx.post(f"{scripted.url}/v1/{path}", json={
            "model": "nano", "messages": HELLO, "max_tokens": 9, "stream": True, **OFF}).text.split("\n\n")
        silent = [event for event in events if event == sign]
        assert 1 <= len(silent) <= 8 and events[begun:begun + len(silent)] == silent
        assert '"x"' in "".join(events) and ("[DONE]" in events[-1] or "message_stop" in events[-1])
        assert [event.startswith("event: message_start") for event in events] == [i < begun for i in range(len(events))]
        if begun:
            usages = [json.loads(event.rpartition("data: ")[2]) for event in (events[0], events[-2])]
            n = len(scripted.scheduler.prompts[-1])
            assert [usages[0]["message"]["usage"][name] for name in ("input_tokens", "output_tokens")] == [n, 0]
            assert [usages[1]["usage"][name] for name in ("input_tokens", "output_tokens")] == [n, 1]


@pytest.mark.parametrize("headers, status", [
    ({"host": "localhost"}, 200), ({"host": "127.0.0.1:9"}, 200), ({"host": "[::1]:80"}, 200), ({"host": "LOCALHOST:1"}, 200),
    ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example:80"}, 403), ({"host": "localhost@evil.example"}, 403),
    ({"host": ""}, 403), ({"host": "192.168.0.1"}, 403), ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
    ({"origin": "http://localhost"}, 403)])
def test_S14_S15_other_hosts_and_any_origin_are_403_before_any_handler(scripted, headers, status):
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x", "x")
    body = {"model": "nano", "messages": HELLO, "max_tokens": 5, "stream": True}
    answers = [httpx.get(scripted.url + path, headers=headers) for path in ("/v1/models", "/health")]
    answers += [httpx.post(scripted.url + path, headers=headers, json=body) for path in ("/v1/chat/completions", "/v1/messages")]
    assert [answer.status_code for answer in answers] == [status] * 4
    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)
    if status == 403:
        assert answers[2].json()["error"]["code"] == "forbidden" and answers[3].json()["error"]["type"] == "permission_error"
        assert all("request-id" in answer.headers for answer in answers)


def test_S12_a_key_is_needed_on_every_route_but_health(nano):
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer))
    with served(engine, keys=["first-key", "second-key"], hosts=["Model.example"]) as url:
        good = [{"authorization": "Bearer first-key"}, {"authorization": "bearer second-key"}, {"x-api-key": "second-key"},
                {"authorization": "Bearer wrong", "x-api-key": "first-key"}]
        wrong = [{}, {"authorization": "Bearer first"}, {"authorization": "first-key"}, {"authorization": "Basic first-key"},
                 {"x-api-key": "first-keyx"}, {"x-api-key": ""}, {"authorization": "Bearer"}]
        for headers in good:
            assert httpx.get(url + "/v1/models", headers={"host": "model.example", **headers}).status_code == 200
            assert httpx.get(url + "/v1/nothing", headers=headers).status_code == 404
        said = set()
        for headers in wrong:
            for path in ("/v1/models", "/v1/nothing", "/v1/chat/completions", "/ready"):
                answer = httpx.get(url + path, headers=headers)
                said.add((answer.status_code, answer.text))
            assert httpx.get(url + "/health", headers=headers).status_code == 200
        (status, text), = said
        assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key") and "-key" not in text
        assert httpx.post(url + "/v1/messages", json={}).json()["error"]["type"] == "authentication_error"
        with pytest.raises(openai.AuthenticationError):
            official(url).models.list()


def test_S13_others_than_the_loopback_need_keys_or_to_be_told_twice(capsys, tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("\n\n")
    (tmp_path / "other").write_text("key\n\nSchlüssel\n", encoding="utf-8")

    def listen(*address, **options):
        raise OSError("this far")

    monkeypatch.setattr("dsvk.cli.socket.create_server", listen)
    for options, words in ((["--host", "0.0.0.0"], "give keys with --key-file"), (["--without-keys"], "this far"),
                           (["--host", "0.0.0.0", "--without-keys"], "this far"), (["--host", "::"], "give keys"),
                           (["--key-file", str(tmp_path / "keys")], "no key in it"),
                           (["--key-file", str(tmp_path / "other")], "the key in line 3 has other than ASCII"),
                           (["--key-file", str(tmp_path / "none")], "No such file")):
        assert main(["serve", "nano", "--port", "0", *options]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", "nano", "--port", "65536"])
    assert "65535" in capsys.readouterr().err


def idle(engine, seconds=60):
    """Waits until nothing runs or waits."""
    end = time.monotonic() + seconds
    while (report := engine.scheduler.report)["running"] + report["waiting"] > 0:
        assert time.monotonic() < end, report
        time.sleep(0.02)


def test_S09_a_client_that_goes_away_ends_its_request(engine, client, url):
    stream = create(client, thinking=False, max_tokens=3000, temperature=0.01, stream=True, extra_body={"seed": 1})
    next(iter(stream))
    before = engine.scheduler.report["completion_tokens"]
    stream.close()                                                                                      # while it decodes
    idle(engine)
    assert engine.scheduler.report["completion_tokens"] - before < 1000
    long = [{"role": "user", "content": "".join(chr(97 + i * i % 23) for i in range(3500))}]
    for streaming in (True, False):                                                                     # while the prompt runs
        before = engine.scheduler.report["completion_tokens"]
        body = {"model": "nano", "messages": long, "stream": streaming, "max_tokens": 50}
        try:
            httpx.post(url + "/v1/chat/completions", json=body, timeout=0.3)
        except httpx.ReadTimeout:      # a device may be too quick for this
            idle(engine)
            assert engine.scheduler.report["completion_tokens"] == before
    assert create(client, max_tokens=1, temperature=0).usage.completion_tokens == 1


# ---- refusals ----

def message(**fields):
    return {"messages": HELLO + [fields]}


def tool(**function):
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


UNANSWERED = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
REFUSED = [      # what is changed in a good body, the field at fault, words of the sentence
    ({"model": None}, "model", "required"), ({"model": 3}, "model", "string"), ({"messages": None}, "messages", "required"),
    ({"messages": []}, "messages", "at least 1"), ({"messages": "Hello"}, "messages", "list"),
    ({"messages": [3]}, "messages[0]", "object"), ({"messages": [{"content": "x"}]}, "messages[0].role", "required"),
    (message(role="robot", content="x"), "messages[1].role", "robot"), (message(role="user"), "messages[1].content", "required"),
    (message(role="user", content=None), "messages[1].content", "required"),
    (message(role="user", content=3), "messages[1].content", "int"),
    (message(role="user", content=[{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]), "messages[1].content",
     "image_url"),
    (message(role="user", content=[{"type": "input_audio"}]), "messages[1].content", "input_audio"),
    (message(role="user", content=[{"type": "text"}]), "messages[1].content", "part 0"),
    (message(role="user", content="x", prefix=True), "messages[1].prefix", "last message"),
    ({"messages": [{"role": "assistant", "content": "x", "prefix": True}] + HELLO}, "messages[0].prefix", "last message"),
    (message(role="assistant", content="x"), "messages[1]", "prefix"),
    (message(role="tool", content="x"), "messages[1].tool_call_id", "required"),
    (message(role="tool", content="x", tool_call_id="c9"), "messages[1].tool_call_id", "c9"),
    ({"messages": HELLO + [UNANSWERED] + HELLO}, "messages[1].tool_calls[0].id", "No tool output found for tool call ID. ('c1')"),
    ({"messages": HELLO + [UNANSWERED]}, "messages[1].tool_calls[0].id", "'c1'"),
    (message(role="assistant", tool_calls=[{"id": "c"}]), "messages[1].tool_calls[0].function", "required"),
    ({"stream": "yes"}, "stream", "boolean"), ({"stream_options": 1}, "stream_options", "object"),
    ({"max_tokens": 0}, "max_tokens", "got 0"), ({"max_tokens": -1}, "max_tokens", "-1"), ({"max_tokens": 1.5}, "max_tokens", "1.5"),
    ({"max_tokens": "5"}, "max_tokens", "integer"), ({"max_tokens": 10 ** 30}, "max_tokens", "less than"),
    ({"max_completion_tokens": True}, "max_completion_tokens", "integer"),
    ({"temperature": 2.1}, "temperature", "2.1"), ({"temperature": -0.1}, "temperature", "-0.1"),
    ({"temperature": "1"}, "temperature", "number"), ({"top_p": 0}, "top_p", "greater than 0"), ({"top_p": 1.01}, "top_p", "1.01"),
    ({"top_k": -1}, "top_k", "-1"), ({"top_k": 2 ** 31}, "top_k", "less"), ({"min_p": 1.5}, "min_p", "1.5"),
    ({"seed": 2 ** 63}, "seed", "less than"),
    ({"seed": 0.5}, "seed", "0.5"), ({"n": 0}, "n", "got 0"), ({"n": 9}, "n", "got 9"),
    ({"stop": 3}, "stop", "text"), ({"stop": [""]}, "stop", "1 to"), ({"stop": ["x"] * 17}, "stop", "at most 16"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "2.5"), ({"presence_penalty": -3}, "presence_penalty", "-3"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "-100 to 100"), ({"logit_bias": {"5": True}}, "logit_bias", "-100 to 100"),
    ({"logit_bias": {"five": 1}}, "logit_bias", "'five'"), ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'"),
    ({"logit_bias": {"2048": 1}}, "logit_bias", "0 to 2047"), ({"logit_bias": [5]}, "logit_bias", "object"),
    ({"logit_bias": {str(id): 1 for id in range(1025)}}, "logit_bias", "at most 1024"),
    ({"thinking": {"type": "maybe"}}, "thinking.type", "enabled"), ({"thinking": True}, "thinking", "object"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "none, minimal, low, medium, high, xhigh, max, ultra"),
    ({"logprobs": 1}, "logprobs", "boolean"), ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "21"), ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "-1"),
    ({"functions": []}, "functions", "tools"), ({"function_call": "auto"}, "function_call", "tools"),
    ({"audio": {"voice": "x"}}, "audio", "text only"), ({"modalities": ["text", "audio"]}, "modalities", "text only"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "function"),
    (tool(name="no spaces"), "tools[0].function.name", "no spaces"), (tool(name="x" * 65), "tools[0].function.name", "xxx"),
    (tool(name="line\n"), "tools[0].function.name", "line"), (tool(parameters=[]), "tools[0].function.parameters", "dictionary"),
    ({"tools": tool()["tools"] * 2}, "tools[1].function.name", "twice"), ({"tools": [CLOCK] * 129}, "tools", "128"),
    ({"tool_choice": "required"}, "tool_choice", "required without tools"), ({"tool_choice": "maybe"}, "tool_choice", "none"),
    ({**tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "'g'"),
    ({**tool(), "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "some", "tools": []}}}, "tool_choice", "allowed_tools"),
    ({**tool(), "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{
        "type": "function", "function": {"name": "g"}}]}}}, "tool_choice", "'g'"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema", "required"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is required"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"), ({"user_id": 3}, "user_id", "string"),
]


@pytest.mark.parametrize("change, param, words", REFUSED)
def test_S01_S02_S17_a_bad_value_is_400_and_names_the_field(url, change, param, words):
    answer = httpx.post(url + "/v1/chat/completions", json={"model": "nano", "messages": HELLO, **change})
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_request_error", param), error
    assert words in error["message"] and param in error["message"], error


NO_JSON = [(b"", "no JSON"), (b"[1]", "expected an object"), (b'{"model":', "no JSON"), (b'{"a":1,"\\u0061":2}', "'a' appears twice"),
           (b'{"model":"\xff"}', "no UTF-8: byte 10"), (b'{"temperature":NaN}', "NaN"), (b'{"temperature":1e999}', "too large"),
           (b'{"a":' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper than 64"), (b'{"a":' + b"[" * 100000 + b"}", "nested deeper"),
           (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "a: nested deeper than 64"), (b'{"user":"\\ud800"}', "user: has half of a surrogate"),
           (b'{"\\udc00":1}', "\\udc00: has half of a surrogate"), (b'{"a":[{"\\udc00":1}]}', "a[0].\\udc00: has half of a surrogate"),
           (b'{"n":' + b"9" * 5000 + b"}", "no JSON")]


@pytest.mark.parametrize("text, words", NO_JSON, ids=range(len(NO_JSON)))
def test_S01_a_body_that_is_no_json_is_400(url, text, words):
    answer = httpx.post(url + "/v1/chat/completions", content=text, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and words in error["message"], error
    assert error["param"] is None or error["param"] in words or error["message"].startswith(f"{error['param']}: "), error


def test_S01_a_body_as_deep_as_it_may_be(scripted):
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("x")
    text = json.dumps({"model": "nano", "messages": HELLO})[:-1] + ',"a":' + "[" * 63 + "]" * 63 + "}"
    answer = httpx.post(scripted.url + "/v1/chat/completions", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_a_prompt_that_is_too_long_says_what_clients_parse(url, engine, nano):
    long = [{"role": "user", "content": "word " * engine.context}]
    n = len(chat.encode_ids(nano.tokenizer, long)) + 1
    answer = httpx.post(url + "/v1/chat/completions", json={"model": "nano", "messages": long})
    assert answer.status_code == 400 and answer.json()["error"] == {
        "message": f"This model's maximum context length is {engine.context} tokens. However, you requested {n} tokens. Please "
                   "reduce the length of the messages or completion.",
        "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}


def test_S03_a_body_over_the_limit_is_413(nano):
    good = json.dumps({"model": "nano", "messages": HELLO, "padding": " " * 5000}).encode()
    with served(Engine(nano, "nano", scheduler=Script(nano.tokenizer)), body_bytes=4096) as url:
        for headers, body in (({}, good), ({}, iter([good[:3000], good[3000:]])), ({"content-encoding": "gzip"}, gzip.compress(good))):
            answer = httpx.post(url + "/chat/completions", content=body, headers={"content-type": "application/json", **headers})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
            assert answer.headers["connection"] == "close" and "4096 bytes" in answer.text


def test_bodies_may_be_packed(scripted):
    text = json.dumps({"model": "nano", "messages": HELLO}).encode()
    good, empty = gzip.compress(text), gzip.compress(b"")
    parts = gzip.compress(text[:20]) + empty + gzip.compress(text[20:])
    for body, encoding, status in ((good, "gzip", 200), (good[:-3], "gzip", 400), (b"x", "gzip", 400), (good, "br", 415),
                                   (b"", "gzip", 400), (parts, "gzip", 200), (parts[:-3], "gzip", 400), (parts + b"x", "gzip", 400),
                                   (empty * 4095 + good, "gzip", 200), (empty * 4096 + good, "gzip", 400)):
        scripted.scheduler.answers.clear()
        scripted.scheduler.say("x")
        answer = httpx.post(scripted.url + "/v1/chat/completions", content=body,
                            headers={"content-type": "application/json", "content-encoding": encoding})
        assert answer.status_code == status, answer.text
    scripted.scheduler.answers.clear()


def test_S05_other_content_types_paths_and_methods(url):
    answer = httpx.post(url + "/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415 and answer.json()["error"]["param"] == "content-type"
    answer = httpx.get(url + "/v1/chat/completions")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST" and "error" in answer.json()
    answer = httpx.get(url + "/v1/nothing?beta=true")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


# ---- completions ----

def complete(client, prompt="ROMEO:\n", **options):
    return client.completions.create(**{"model": "nano", "prompt": prompt, "temperature": 0, "max_tokens": 12, **options})


def streamed(url, **options):
    """Chunks as they are: the official client's strict validation has no null for this format's finish_reason."""
    text = httpx.post(url + "/v1/completions", json={"model": "nano", "prompt": "ROMEO:\n", "temperature": 0, "max_tokens": 12,
                                                     "stream": True, **options}).text
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_completion_is_the_text_continued(nano, client, url):
    text = nano.generate("ROMEO:\n", 12, temperature=0)
    ids = nano.prompt_tokens("ROMEO:\n")
    for prompt in ("ROMEO:\n", ["ROMEO:\n"], ids):
        answer = complete(client, prompt)
        assert (answer.object, answer.choices[0].text, answer.choices[0].logprobs) == ("text_completion", text, None)
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 12)
        assert answer.choices[0].finish_reason == "length"
    *chunks, last = streamed(url, stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text and not any(chunk["usage"] for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[-2:]] == [None, "length"]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 12
    assert complete(client, echo=True).choices[0].text == "ROMEO:\n" + text
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed(url, echo=True)) == "ROMEO:\n" + text
    stop = text[5:8]
    stopped = complete(client, stop=stop).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text[:text.index(stop)], "stop")


def test_a_completion_with_log_probabilities_and_choices(nano, client):
    one = complete(client, logprobs=2).choices[0]
    found = one.logprobs
    assert "".join(found.tokens) == one.text and len(found.token_logprobs) == 12
    for offset, token, value, top in zip(found.text_offset, found.tokens, found.token_logprobs, found.top_logprobs):
        assert one.text[offset:offset + len(token)] == token and top[token] == value == max(top.values()) and len(top) == 2
    three = complete(client, temperature=1, seed=3, n=3, extra_body={"best_of": 3}).choices
    assert [choice.index for choice in three] == [0, 1, 2] and len({choice.text for choice in three}) == 3


def test_an_echoed_prompt_has_log_probabilities_and_may_be_all(nano, client, url):
    """Those that the tokens have as an answer, offsets in the echoed text, and a prompt that is only scored. Not by the official
    client: its strict validation has no null for the first token."""
    def ask(**options):
        return httpx.post(url + "/v1/completions", json={"model": "nano", "temperature": 0, "echo": True, "logprobs": 2, **options}).json()

    def check(choice, shown):
        """Offsets are where the tokens stand; what the format puts before a text has no place in it."""
        found = choice["logprobs"]
        for offset, token in list(zip(found["text_offset"], found["tokens"]))[shown:]:
            assert choice["text"][offset:offset + len(token)] == token

    prompt, text = "ROMEO:\nO, sweet", nano.generate("ROMEO:\nO, sweet", 4, temperature=0)
    ids = nano.prompt_tokens(prompt)
    for given in (prompt, ids):
        scored = ask(prompt=given, max_tokens=0)
        one, shown = scored["choices"][0], prompt if given == prompt else nano.tokenizer.decode(ids)
        values = one["logprobs"]["token_logprobs"]
        assert (one["text"], one["finish_reason"], len(one["logprobs"]["tokens"])) == (shown, "length", len(ids))
        assert (scored["usage"]["prompt_tokens"], scored["usage"]["completion_tokens"]) == (len(ids), 0)
        assert values[0] is None and one["logprobs"]["top_logprobs"][0] is None and all(value < 0 for value in values[1:])
        check(one, given == prompt)
        for choice in ask(prompt=given, max_tokens=4, n=2)["choices"]:
            assert choice["text"] == shown + text and len(choice["logprobs"]["tokens"]) == len(ids) + 4
            assert choice["logprobs"]["token_logprobs"][:len(ids)] == values
            check(choice, given == prompt)
    answer = complete(client, ids[:-1], logprobs=0, max_tokens=1).choices[0]      # the likeliest is scored as it was generated
    again = ask(prompt=[*ids[:-1], *nano.tokenizer.encode(answer.text)], max_tokens=0)["choices"][0]
    assert abs(again["logprobs"]["token_logprobs"][-1] - answer.logprobs.token_logprobs[-1]) < 1e-3
    chunks = streamed(url, prompt=ids, echo=True, logprobs=2, max_tokens=4)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]
    assert [value for chunk in chunks for value in chunk["choices"][0]["logprobs"]["token_logprobs"]] == \
        choice["logprobs"]["token_logprobs"]


def test_several_prompts_with_several_choices(nano, client, url):
    prompts = ["ROMEO:\n", "JULIET:\n", "KING:\n"]
    texts = [nano.generate(prompt, 6, temperature=0) for prompt in prompts]
    for given in (prompts, [nano.prompt_tokens(prompt) for prompt in prompts]):
        answer = complete(client, given, max_tokens=6, n=2)
        assert [choice.index for choice in answer.choices] == list(range(6))
        assert [choice.text for choice in answer.choices] == [text for text in texts for _ in range(2)]
        assert answer.usage.prompt_tokens == sum(len(nano.prompt_tokens(prompt)) for prompt in prompts)
        assert answer.usage.completion_tokens == 36
    got, finishes = [""] * 3, []
    for chunk in streamed(url, prompt=prompts, max_tokens=6, echo=True):
        for choice in chunk["choices"]:
            got[choice["index"]] += choice["text"]
            finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert got == [prompt + text for prompt, text in zip(prompts, texts)] and finishes == ["length"] * 3


def test_a_suffix_makes_a_gap_to_be_filled(scripted, nano):
    scripted.scheduler.say("mid")
    answer = scripted.client.completions.create(model="nano", prompt="a <think>", suffix="z")
    encode = nano.tokenizer.encode
    assert scripted.scheduler.prompts[-1] == [*encode("<｜begin▁of▁sentence｜><｜fim▁begin｜>", special=True), *encode("a <think>"),
                                              *encode("<｜fim▁hole｜>z<｜fim▁end｜>", special=True)]
    assert answer.choices[0].text == "mid" and scripted.scheduler.options[-1]["max_tokens"] == min(4096, scripted.context)


@pytest.mark.parametrize("change, param, words", [
    ({"prompt": None}, "prompt", "required"), ({"prompt": 3}, "prompt", "a text"), ({"prompt": ["a", 3]}, "prompt", "a text"),
    ({"prompt": []}, "prompt", "a text"), ({"prompt": [True]}, "prompt", "a text"), ({"prompt": ["x"] * 65}, "prompt", "at most 64"),
    ({"prompt": [[5], "x"]}, "prompt", "a text"), ({"prompt": [[5], []]}, "prompt", "a text"),
    ({"max_tokens": -1}, "max_tokens", "got -1"),
    ({"prompt": [0, 99999]}, "prompt", "0 to"),
    ({"prompt": [-1]}, "prompt", "0 to"), ({"prompt": [5], "suffix": "x"}, "suffix", "text"), ({"suffix": 3}, "suffix", "string"),
    ({"max_tokens": 0}, "max_tokens", "needs echo"), ({"logprobs": 21}, "logprobs", "21"), ({"logprobs": True}, "logprobs", "integer"),
    ({"echo": True, "logprobs": 0, "suffix": "x"}, "echo", "suffix"), ({"best_of": 2}, "best_of", "got 2"),
    ({"echo": 1}, "echo", "boolean"),
    ({"frequency_penalty": 3}, "frequency_penalty", "got 3"), ({"logit_bias": {"9999": 1}}, "logit_bias", "0 to 2047"),
    ({"temperature": 3}, "temperature", "got 3")])
def test_S02_a_bad_value_of_a_completion_is_400(url, change, param, words):
    answer = httpx.post(url + "/beta/completions", json={"model": "nano", "prompt": "x", **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param) and words in error["message"] and param in error["message"], error


# ---- the other routes ----

def test_models_by_the_official_client(client, url, engine):
    listed = client.models.list()
    assert [model.id for model in listed.data] == ["nano"] and listed.data[0].max_input_tokens == engine.context
    assert client.models.retrieve("nano") == listed.data[0]
    for path in ("/models?limit=1000", "/beta/models"):
        assert httpx.get(url + path).json()["first_id"] == "nano"


@pytest.mark.parametrize("name", ["gpt-4", "..", "../nano", "%2e%2e%2fnano", "nano/", "nano%00", "x" * 3000])
def test_S16_other_names_are_404(url, name):
    answers = [httpx.get(f"{url}/v1/models/{name}")] if name != ".." and "../" not in name else []
    answers.append(httpx.post(url + "/v1/chat/completions", json={"model": name, "messages": HELLO}))
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model"), error
        assert len(error["message"]) < 300


def test_options_take_any_name_and_insist_on_thoughts(nano):
    called = {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]}
    turns = [*HELLO, called, {"role": "tool", "tool_call_id": "c1", "content": "rain"}]
    engine = Engine(nano, "nano", scheduler=Script(nano.tokenizer), any_model=True, strict_history=True)
    with served(engine) as url:
        def ask(messages, **more):
            return httpx.post(url + "/v1/chat/completions", json={"model": "gpt-4", "messages": messages, **more})

        assert httpx.get(url + "/v1/models/anything").json()["id"] == "nano"
        engine.scheduler.say("well</think>yes", "well</think>yes", "yes", "well</think>yes")
        answer = ask(turns)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages[1].reasoning_content"
        assert "The `reasoning_content` in the thinking mode must be passed back to the API." in answer.text
        assert ask([*HELLO, {**called, "reasoning_content": "I ask."}, turns[2]]).json()["model"] == "nano"
        assert ask([*HELLO, {**called, "reasoning_content": ""}, turns[2]]).status_code == 200      # as an empty thought is answered
        assert ask(turns, thinking={"type": "disabled"}).status_code == 200
        assert ask(HELLO + [{"role": "assistant", "content": "Hi"}] + HELLO).status_code == 200       # no calls, no thoughts needed


IGNORED = ["metadata", "store", "service_tier", "verbosity", "prediction", "prompt_cache_key", "prompt_cache_retention",
           "safety_identifier", "web_search_options"]


def test_aliases_probes_and_ids(scripted):
    for path in ("/v1/chat/completions", "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions?beta=true"):
        scripted.scheduler.say("x")
        answer = httpx.post(scripted.url + path, json={"model": "nano", "messages": HELLO, "unknown": {"a": [None]}, "stop": None,
                                                           **dict.fromkeys(IGNORED, {"any": ["thing"]})})
        assert answer.status_code == 200 and answer.json()["id"].startswith("chatcmpl-")
        assert answer.headers["request-id"] == answer.headers["x-request-id"] != ""
    for path in ("/v1/completions", "/completions", "/beta/completions", "/beta/v1/completions?x=1"):
        scripted.scheduler.say("x")
        answer = httpx.post(scripted.url + path, json={"model": "nano", "prompt": "y"})
        assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == "x"
    for path in ("/", "/v1", "/anthropic"):
        answer = httpx.head(scripted.url + path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert httpx.get(scripted.url + "/health").json() == {"status": "ok"}
    assert httpx.get(scripted.url + "/ready").json() == {"status": "ready", "model": "nano"}
    scripted.scheduler.closed = True
    try:
        assert httpx.get(scripted.url + "/ready").status_code == 503
        assert httpx.get(scripted.url + "/health").status_code == 200
    finally:
        scripted.scheduler.closed = False


def test_a_stream_is_events_to_the_letter(scripted):
    scripted.scheduler.say("Zü\u2028rich")
    with httpx.stream("POST", scripted.url + "/v1/chat/completions", json={
            "model": "nano", "messages": HELLO, "stream": True, **OFF}) as answer:
        text = answer.read().decode()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8" and answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no" and "\r" not in text
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "") and all(event.startswith("data: ") for event in events)
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1 and not any("usage" in chunk for chunk in chunks)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "Zü\u2028rich"
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
