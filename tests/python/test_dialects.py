"""The wire formats beside each other: one answer in four of them, streams cut anywhere, clients that go in any phase, shapes of
agents' requests, and any body that the server's own description allows."""
import asyncio
import codecs
import json
import random
import re
import string

import pytest

pytest.importorskip("starlette"), pytest.importorskip("uvicorn"), pytest.importorskip("pydantic")
pytest.importorskip("prometheus_client"), pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

from dsvk import chat  # noqa: E402
from dsvk.server import Engine, application  # noqa: E402
from serving import Script  # noqa: E402
from test_server import BERN, HELLO, OFF, WEATHER, call, calls, engine, idle, scripted, url  # noqa: E402, F401


class Events:
    """Server-sent events by the letter of the HTML standard, from bytes cut anywhere. Knows nothing of this server."""

    def __init__(self):
        self.decoder, self.rest = codecs.getincrementaldecoder("utf-8")(), ""
        self.name, self.data, self.found = "", [], []

    def feed(self, data, final=False):
        text = self.rest + self.decoder.decode(data, final)
        end = len(text) - (text.endswith("\r") and not final)      # half of an end of line, perhaps
        *lines, rest = re.split("\r\n|\r|\n", text[:end])
        self.rest = rest + text[end:]
        for line in lines:
            self.take(line)
        return self.found

    def take(self, line):
        if not line:
            if self.data:
                self.found.append((self.name or "message", "\n".join(self.data)))
            self.name, self.data = "", []
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self.data.append(value)
        elif field == "event":
            self.name = value


# ---- each format read for what they have in common ----

def of_chat(body):
    choice = body["choices"][0]
    message = choice["message"]
    return {"text": message["content"], "thoughts": message.get("reasoning_content") or "",
            "calls": [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or []],
            "tokens": (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"],
                       body["usage"]["completion_tokens_details"]["reasoning_tokens"])}


def of_chat_events(events):
    assert events[-1][1] == "[DONE]"
    message, usage = {"content": "", "reasoning_content": "", "tool_calls": []}, None
    for _, data in events[:-1]:
        chunk = json.loads(data)
        usage = chunk["usage"] or usage
        for choice in chunk["choices"]:
            for name in ("content", "reasoning_content"):
                message[name] += choice["delta"].get(name) or ""
            for part in choice["delta"].get("tool_calls") or []:
                if "id" in part:
                    message["tool_calls"].append({"function": {"name": part["function"]["name"], "arguments": ""}})
                message["tool_calls"][part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return of_chat({"choices": [{"message": message}], "usage": usage})


def of_completion(body):
    return {"text": body["choices"][0]["text"], "thoughts": "", "calls": [],
            "tokens": (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"], 0)}


def of_completion_events(events):
    chunks = [json.loads(data) for _, data in events[:-1]]
    return of_completion({"choices": [{"text": "".join(one["text"] for chunk in chunks for one in chunk["choices"])}],
                          "usage": chunks[-1]["usage"]})


def of_response(body):
    def texts(kind):
        return "".join(item["content"][0]["text"] for item in body["output"] if item["type"] == kind)
    return {"text": texts("message"), "thoughts": texts("reasoning"),
            "calls": [(item["name"], item["arguments"]) for item in body["output"] if item["type"] == "function_call"],
            "tokens": (body["usage"]["input_tokens"], body["usage"]["output_tokens"],
                       body["usage"]["output_tokens_details"]["reasoning_tokens"])}


def of_response_events(events):
    deltas = {}
    for name, data in events:
        if name.endswith(".delta"):
            deltas[name] = deltas.get(name, "") + json.loads(data)["delta"]
    read = of_response(json.loads(events[-1][1])["response"])
    assert read["text"] == deltas.get("response.output_text.delta", "")
    assert read["thoughts"] == deltas.get("response.reasoning_text.delta", "")
    assert "".join(arguments for _, arguments in read["calls"]) == deltas.get("response.function_call_arguments.delta", "")
    return read


def of_message(body):
    def texts(kind):
        return "".join(block[kind] for block in body["content"] if block["type"] == kind)
    usage = body["usage"]
    return {"text": texts("text"), "thoughts": texts("thinking"),
            "calls": [(block["name"], json.dumps(block["input"])) for block in body["content"] if block["type"] == "tool_use"],
            "tokens": (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"],
                       usage["output_tokens_details"]["thinking_tokens"])}


def of_message_events(events):
    message, blocks = None, []
    for name, data in events:
        event = json.loads(data)
        if name == "message_start":
            message = event["message"]
        elif name == "content_block_start":
            blocks.append({**event["content_block"], "json": ""})
        elif name == "content_block_delta":
            for key, value in event["delta"].items():
                if key in ("text", "thinking"):
                    blocks[event["index"]][key] += value
                elif key == "partial_json":
                    blocks[event["index"]]["json"] += value
        elif name == "message_delta":
            message["usage"] = event["usage"]
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"] or "{}")
    return of_message({**message, "content": blocks})


FUNCTION = WEATHER["function"]
FORMATS = [
    ("/v1/chat/completions", {"messages": HELLO, "stream_options": {"include_usage": True}}, OFF, "max_tokens", {"tools": [WEATHER]},
     of_chat, of_chat_events),
    ("/v1/responses", {"input": "Hello"}, {"reasoning": {"effort": "none"}}, "max_output_tokens",
     {"tools": [{"type": "function", **FUNCTION}]}, of_response, of_response_events),
    ("/v1/messages", {"messages": HELLO}, OFF, "max_tokens", {"tools": [
        {"name": "weather", "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}]},
     of_message, of_message_events)]


def asked(url, path, body):
    answer = httpx.post(url + path, json={"model": "nano", **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("thinking", [False, True])
def test_api_9_4_formats_and_streams_agree(nano, url, thinking):
    """One prompt and seed, by the model itself."""
    read = []
    for path, body, off, limit, _, whole, events in FORMATS:
        body = {**body, **({} if thinking else off), limit: 14, "seed": 12, "temperature": 1.0}
        read.append(whole(asked(url, path, body).json()))
        read.append(events(Events().feed(asked(url, path, {**body, "stream": True}).content, True)))
    prompt = chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="thinking" if thinking else "chat")
    body = {"prompt": prompt, "max_tokens": 14, "seed": 12, "temperature": 1.0, "stream_options": {"include_usage": True}}
    plain = [of_completion(asked(url, "/v1/completions", body).json()),
             of_completion_events(Events().feed(asked(url, "/v1/completions", {**body, "stream": True}).content, True))]
    assert all(one == read[0] for one in read), read
    assert plain[0] == plain[1] and plain[0]["text"].replace("</think>", "") == read[0]["thoughts"] + read[0]["text"]
    assert len(plain[0]["text"]) > 5
    assert plain[0]["tokens"][:2] == read[0]["tokens"][:2]


def test_api_9_4_formats_and_streams_agree_about_calls(scripted):
    said = "Look.</think>I will." + calls(BERN, call("weather", ("days", "false", "2")))
    scripted.scheduler.answers.clear()
    scripted.scheduler.say(*[said] * 6)
    read = []
    for path, body, _, limit, tools, whole, events in FORMATS:
        read.append(whole(asked(scripted.url, path, {**body, **tools, limit: 900}).json()))
        read.append(events(Events().feed(asked(scripted.url, path, {**body, **tools, limit: 900, "stream": True}).content, True)))
    assert all(one == read[0] for one in read), read
    assert (read[0]["thoughts"], read[0]["text"], len(read[0]["calls"])) == ("Look.", "I will.", 2)
    assert len({tuple(prompt) for prompt in scripted.scheduler.prompts[-6:]}) == 1      # and so does the prompt


def test_api_9_4_formats_agree_about_definitions_of_tools(scripted, nano):
    """Without what is null, which is absent, without `strict`, which is for the answer, and without what the format does not know."""
    name, described = FUNCTION["name"], FUNCTION["description"]
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    plain = {"name": name, "description": described, "parameters": schema}

    def prompts(**more):
        for path, body, tool in (
                ("/v1/chat/completions", {"messages": HELLO}, {"type": "function", "function": {**plain, **more}}),
                ("/v1/responses", {"input": "Hello"}, {"type": "function", **plain, **more}),
                ("/v1/messages", {"messages": HELLO, "max_tokens": 9}, {
                    "name": name, "description": described, "input_schema": schema, **more})):
            scripted.scheduler.answers.clear()
            scripted.scheduler.say("x")
            asked(scripted.url, path, {**body, "tools": [tool]})
            yield scripted.scheduler.prompts[-1]

    written = chat.encode_ids(nano.tokenizer, HELLO, thinking_mode="thinking", tools=[{"type": "function", "function": plain}])
    for more in ({}, {"strict": None}, {"strict": False}, {"strict": True}, {"cache_control": {"type": "ephemeral"}}):
        assert all(one == written for one in prompts(**more)), more
    for function in ({"name": name}, {"name": name, "description": None, "parameters": None, "strict": None}):
        for path, body, tool in (("/v1/chat/completions", {"messages": HELLO}, {"type": "function", "function": function}),
                                 ("/v1/responses", {"input": "Hello"}, {"type": "function", **function})):
            scripted.scheduler.say("x")
            asked(scripted.url, path, {**body, "tools": [tool]})
            assert f'\n{{"name": "{name}"}}\n' in nano.tokenizer.decode(scripted.scheduler.prompts[-1])


def test_api_9_5_every_stream_is_the_same_however_it_is_cut(scripted, monkeypatch):
    monkeypatch.setattr("dsvk.server.limits.KEEP_ALIVE_SECONDS", 0.05)
    for path, body, off, limit, tools, _, events in FORMATS + [
            ("/v1/completions", {"prompt": "x", "stream_options": {"include_usage": True}}, {}, "max_tokens", {}, None,
             of_completion_events)]:
        scripted.scheduler.answers.clear()
        scripted.scheduler.say(("Zü\u2028rich\r\n😀", 0.12))
        text = asked(scripted.url, path, {**body, **off, **tools, limit: 99, "stream": True}).content
        whole = Events().feed(text, True)
        assert events(whole)["text"] == "Zü\u2028rich\r\n😀"
        for cut in range(len(text)):
            parser = Events()
            parser.feed(text[:cut])
            assert parser.feed(text[cut:], True) == whole, (path, cut)
        bytewise = Events()
        for i in range(len(text)):
            bytewise.feed(text[i:i + 1])
        assert bytewise.found == whole


@pytest.mark.parametrize("path, body, off, limit", [one[:4] for one in FORMATS])
def test_api_9_5_a_client_that_goes_in_any_phase_frees_its_place(engine, url, path, body, off, limit):
    """While it waits, while its prompt runs, while it decodes."""
    report = engine.scheduler.report
    with httpx.Client(base_url=url) as client:
        def begun(**more):
            return client.stream("POST", path, timeout=60, json={"model": "nano", **body, **off, limit: 3000, "seed": 1, "stream": True,
                                                                 **more})

        with begun() as decoding:
            lines = decoding.iter_lines()
            for line in lines:
                if "delta" in line and "role" not in line:
                    break
        idle(engine)
        streams = [engine.scheduler.submit("A", 3000, temperature=0) for _ in range(32)]      # nothing begins beside these
        with begun():
            assert engine.scheduler.report["running"] + engine.scheduler.report["waiting"] >= 32
        for stream in streams:
            stream.cancel()
        idle(engine)
        long = "".join(random.Random(path).choices(string.ascii_lowercase, k=3500))
        with begun(**({"input": long} if "input" in body else {"messages": [{"role": "user", "content": long}]})):
            pass
        idle(engine)
    after = engine.scheduler.report
    assert after["finished"] > report["finished"] and after["completion_tokens"] - report["completion_tokens"] < 5000


# ---- shapes of agents ----

def function(name, **properties):
    return {"type": "function", "function": {"name": name, "description": f"The {name} tool", "parameters": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": False, "required": [],
        "properties": {key: {"type": kind, "description": key} for key, kind in properties.items()}}}}


OPENCODE = [function(name, path="string", limit="number") for name in
            ("bash", "edit", "glob", "grep", "list", "read", "todoread", "todowrite", "webfetch", "write")]


def test_api_9_3_opencode(scripted):
    """Its title request, its agent's request, and the turn that answers a tool call and repeats the thoughts."""
    scripted.scheduler.answers.clear()
    scripted.scheduler.say("A title.</think>Greeting", "I look.</think>" + calls(call("read", ("path", "true", "a.py"))),
                           "So.</think>Done.")
    two = [{"role": "user", "content": "Generate a title for this conversation:\n"}, {"role": "user", "content": "Hello"}]
    title = asked(scripted.url, "/v1/chat/completions", {
        "messages": [{"role": "system", "content": "You are a title generator."}, *two], "reasoning_effort": "low", "max_tokens": 32000,
        "stream": True, "stream_options": {"include_usage": True}}).content
    assert of_chat_events(Events().feed(title, True))["text"] == "Greeting"
    common = {"tools": OPENCODE, "tool_choice": "auto", "max_tokens": 32000, "stream": True, "stream_options": {"include_usage": True}}
    messages = [{"role": "system", "content": "You are opencode."}, {"role": "user", "content": [{"type": "text", "text": "Read a.py"}]}]
    events = Events().feed(asked(scripted.url, "/v1/chat/completions", {"messages": messages, **common}).content, True)
    first = of_chat_events(events)
    assert first["calls"] == [("read", '{"path": "a.py"}')]
    begun = scripted.scheduler.prompts[-1]
    id = next(part["id"] for _, data in events[:-1] for choice in json.loads(data)["choices"]
              for part in choice["delta"].get("tool_calls") or [] if "id" in part)
    messages += [{"role": "assistant", "content": "", "reasoning_content": first["thoughts"], "tool_calls": [
        {"id": id, "type": "function", "function": {"name": "read", "arguments": first["calls"][0][1]}}]},
        {"role": "tool", "tool_call_id": id, "content": "print()"}]
    last = of_chat_events(Events().feed(asked(scripted.url, "/v1/chat/completions", {"messages": messages, **common}).content, True))
    assert (last["thoughts"], last["text"]) == ("So.", "Done.")
    assert scripted.scheduler.prompts[-1][:len(begun)] == begun      # a kept prefix is found


# ---- any body that the description allows, and some that it does not ----

STRICT = {      # a strict tool, in each format that has them
    "/v1/chat/completions": lambda schema: {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}},
    "/v1/responses": lambda schema: {"type": "function", "name": "f", "strict": True, "parameters": schema},
    "/v1/messages": lambda schema: {"name": "f", "strict": True, "input_schema": schema}}


class Bodies:
    """Values of a JSON schema, sometimes of another one; what real fields mean is put in now and then, so that most come far."""
    ODD = [None, True, -1, 0, 2 ** 63, 1.5, 1e308, "", "x", "\u0000", "😀" * 9, [], [[]], {}, {"type": "text"}, {"type": None}, "none",
           "auto"]
    WORDS = ["nano", "user", "assistant", "system", "tool", "function", "custom", "namespace", "message", "function_call",
             "function_call_output", "custom_tool_call", "reasoning", "text", "input_text", "output_text", "tool_use", "tool_result",
             "thinking", "json_schema", "c1", "weather", "Hello", "enabled", "high", "required", "web_search", "tool_reference"]
    NAMES = ["type", "role", "content", "text", "name", "id", "call_id", "tool_use_id", "tool_call_id", "arguments", "input", "output",
             "tool_calls", "function", "thinking", "summary", "tool_name", "namespace", "tools", "format", "parameters", "prefix"]

    def __init__(self, description, seed):
        self.schemas, self.random = description["components"]["schemas"], random.Random(seed)

    def any(self, depth=0):
        kind = self.random.random()
        if depth > 3 or kind < 0.5:
            return self.random.choice(self.ODD + self.WORDS * 2)
        if kind < 0.7:
            return [self.any(depth + 1) for _ in range(self.random.randrange(3))]
        return {self.random.choice(self.NAMES): self.any(depth + 1) for _ in range(self.random.randrange(5))}

    def json_schema(self, depth=0):
        """One that a client might send, for better or worse: references lead anywhere, also back."""
        choice, odd = self.random.choice, self.random.random() < 0.05
        parts = [lambda: {"$ref": choice(["#", "#/$defs/a/anyOf/9", "#/none", "#a", "https://example.com", "#/%zz", 3] if odd else
                                         ["#/$defs/a", "#/$defs/b", "#/properties/a", "#/properties/b"])},
                 lambda: {"type": choice(["strange", 3, []] if odd else ["string", "integer", ["string", "null"], "object", "null"])},
                 lambda: {"type": "string", "minLength": choice([-1, 1.0, 2 ** 70, "x"] if odd else [0, 2]), "maxLength": choice([1, 9])},
                 lambda: choice([None, 3, [], {"enum": []}] if odd else [True, {}, {"enum": ["a", 1, None]}, {"const": "x</"}])]
        inner = [lambda: {"anyOf": [self.json_schema(depth + 1) for _ in range(self.random.randrange(0 if odd else 1, 4))]},
                 lambda: {"properties": {name: self.json_schema(depth + 1) for name in "ab"},
                          "required": ["a", "c"][:self.random.randrange(3)],
                          "additionalProperties": self.json_schema(depth + 1)},
                 lambda: {"type": "array", "items": self.json_schema(depth + 1)}]
        if depth == 0:
            return {"properties": {name: self.json_schema(1) for name in "ab"}, "$defs": {name: self.json_schema(1) for name in "ab"},
                    **({"additionalProperties": False} if self.random.random() < 0.8 else {}),
                    **(choice(parts[:3])() if odd else {})}
        return choice(parts + inner * 2 if depth < 3 else parts)()

    def of(self, schema, depth=0):
        if self.random.random() < 0.02:
            return self.any(depth)
        if "$ref" in schema:
            return self.of(self.schemas[schema["$ref"].rsplit("/", 1)[1]], depth)
        if "anyOf" in schema:
            return self.of(self.random.choice(schema["anyOf"]), depth)
        if "enum" in schema or "const" in schema:
            return self.random.choice(schema.get("enum", [schema.get("const")]))
        match schema.get("type"):
            case "string":
                return self.random.choice(self.WORDS)
            case "integer":
                return self.random.choice([schema.get("minimum", 0), 1, 2, 7])
            case "number":
                return self.random.choice([0, 0.5, 1, schema.get("maximum", 2)])
            case "boolean":
                return self.random.random() < 0.5
            case "null":
                return None
            case "array":
                return [self.of(schema.get("items", {}), depth + 1) for _ in range(self.random.randrange(1, 4) if depth < 4 else 0)]
            case "object":
                return self.object(schema, depth)
        return self.any(depth)

    def object(self, schema, depth):
        if "properties" not in schema:
            return {self.random.choice(self.NAMES): self.any(depth + 1) for _ in range(self.random.randrange(1, 5))}
        wanted = schema.get("required", [])
        return {name: self.of(member, depth + 1) for name, member in schema["properties"].items()
                if name in wanted or self.random.random() < 0.08}


def test_api_9_7_no_body_of_the_description_is_a_fault_of_the_server(nano):
    class Obliging(Script):
        def events(self, *request):
            self.say("Hm.</think>Yes." + calls(BERN) if len(self.prompts) % 2 else "Yes.")
            return super().events(*request)

    async def run():
        found = {}
        transport = httpx.ASGITransport(application(Engine(nano, "nano", scheduler=Obliging(nano.tokenizer))))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            description = (await client.get("/openapi.json")).json()
            paths = [(path, at["post"]["requestBody"]["content"]["application/json"]["schema"])
                     for path, at in description["paths"].items() if "post" in at and path.startswith("/v1/")]
            bodies = Bodies(description, "schema")
            for path, schema in paths:
                for _ in range(250):
                    body = bodies.of(schema)
                    if isinstance(body, dict) and bodies.random.random() < 0.97:
                        body["model"] = "nano"
                        for name, good in (("messages", HELLO), ("input", "Hello"), ("prompt", ["x", "y"])):
                            if name in body and bodies.random.random() < 0.6:
                                body[name] = good
                        if path in STRICT and bodies.random.random() < 0.25:
                            body["tools"] = [STRICT[path](bodies.json_schema())]
                    answer = await client.post(path, json=body)
                    found.setdefault(path, []).append(answer.status_code)
                    assert answer.status_code < 500, (path, json.dumps(body), answer.text)
                    if answer.status_code >= 400:
                        assert answer.json()["error"]["message"], (path, body)
                    else:
                        assert '"the server failed' not in answer.text, (path, json.dumps(body), answer.text)
        return found

    found = asyncio.run(run())
    assert len(found) == 5 and all(codes.count(200) > 10 and codes.count(400) > 10 for codes in found.values()), {
        path: codes.count(200) for path, codes in found.items()}
