"""What the tests of the server share: an application served on loopback, and a scheduler that says what a test wrote."""
import asyncio
import contextlib
import socket
import threading
from collections import deque

import dsvk
from dsvk.server import application
from dsvk.server.connections import server


@contextlib.contextmanager
def served(engine, drain=5, **options):
    """The address of the engine's server, which runs in a thread of its own until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = server(application(engine, **options), drain)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            serving.end()
            thread.join()


class Told:
    """A request whose events are known, as Scheduler.submit would return it."""

    def __init__(self, events):
        self._events = iter(events)

    def cancel(self):
        pass

    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            event = next(self._events)
        except StopIteration:
            raise StopAsyncIteration from None
        if isinstance(event, float):
            await asyncio.sleep(event)
            return await anext(self)
        return event

    def __iter__(self):
        return (event for event in self._events if not isinstance(event, float))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        pass


class Script:
    """A scheduler of a model that says one answer after the other, one token per event. `prompts` and `options` are what was
    submitted. An answer is text with special tokens, or ids, after which the end token comes; (text, error) ends with an error instead,
    (text, seconds) is silent so long before it begins."""

    def __init__(self, tokenizer):
        self.tokenizer, self.closed = tokenizer, False
        self.answers, self.prompts, self.options = deque(), [], []
        self.refusal = None

    def say(self, *answers):
        self.answers.extend(answers)

    def close(self):
        self.closed = True

    def submit(self, prompt, max_tokens, *, choices, **options):
        if self.refusal:
            raise self.refusal
        self.prompts.append(prompt)
        self.options.append({"max_tokens": max_tokens, "choices": choices, **options})
        return Told([event for choice in range(choices) for event in self.events(len(prompt), choice, max_tokens)])

    def events(self, n_prompt, choice, max_tokens):
        said = self.answers.popleft()
        text, error = said if isinstance(said, tuple) else (said, None)
        ids = text if isinstance(text, list) else self.tokenizer.encode(text, special=True)
        decoder, cut = self.tokenizer.decoder(), ids[:max_tokens or None]

        def event(kind, n, ids=(), text="", **more):
            fields = {"logprobs": None, "top": None, "finish": None, "stop_id": -1, "stop_text": -1, "error": None, **more}
            return dsvk.Event(kind, choice, n_prompt, n_prompt, 0, n, list(ids), text, **fields)

        if isinstance(error, float):
            yield error
        yield event("prompt", 0)
        for n, id in enumerate(cut, 1):
            yield event("tokens", n, [id], decoder.push(id))
        if isinstance(error, dsvk.Error):
            yield event("finish", len(cut), finish="error", error=error)
        else:
            yield event("finish", len(cut), finish="stop" if len(cut) == len(ids) else "length", stop_id=1)
