"""What a request may ask for and what it gets without asking: the one place of these numbers, for every wire format."""
from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

BODY_BYTES = 64 << 20
UNPACKED_BYTES, UNPACKED_RATIO = 4 << 20, 64      # of a packed body: so many bytes, and so many more for each that came
GZIP_MEMBERS = 4096      # of a packed body
JSON_DEPTH = 64
JSON_VALUES, JSON_OBJECTS = 1_200_000, 1 << 16      # of a body: room for a prompt of a million token ids, for messages with their parts
READERS, COMPILERS = 2, 2      # threads that read bodies and make prompts of them, short and long ones each, and compile grammars
LONG_BYTES = 256 << 10      # a body of more is long: its prompt takes a tenth of a second and more
LIKELY_CHARACTERS = 8      # of a token: a prompt that has more for each of the context is likely to be too long
MOST_CHOICES, MOST_STOPS, MOST_STOP_BYTES, MOST_TOOLS, MOST_TOP_LOGPROBS, MOST_PROMPTS, MOST_BIASES = 8, 16, 4096, 128, 20, 64, 1024
LARGEST = 2 ** 53 - 1      # whole numbers above are not the same in every JSON reader
KEEP_ALIVE_SECONDS = 8      # of silence in a stream, before a sign of life
HEAD_BYTES, HEAD_FIELDS, HEAD_SECONDS = 16 << 10, 100, 10
BODY_SECONDS, BODY_RATE = 10, 1024      # so long a body may be slower than so many bytes a second
LINGER_SECONDS = 2      # for what still comes when a connection is closed
STALLED_SECONDS = 30      # a connection whose reader takes nothing between two looks ends
UNSENT_BYTES = 64 << 10      # that the system keeps of a connection besides what is on its way
BACKLOG = 256      # events of a request that wait to be written, before it pauses
REQUESTS = 8192      # at once: those that run and wait (--max-waiting), and others
PENDING, ACCEPTED = 2048, 16      # connections that may wait to be taken, and are taken at a time
DRAIN_SECONDS = 30      # what runs when the server is told to end
FAREWELL_SECONDS = 2      # and then its clients are told
COMPLETION_TOKENS = 4096      # of /v1/completions without max_tokens

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra")
EFFORT = "high"


def stop_texts(value: Any) -> list[str]:
    """One text or a list of them."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("expected a text or a list of texts")
    if len(stops) > MOST_STOPS:
        raise ValueError(f"at most {MOST_STOPS} texts, got {len(stops)}")
    if not all(0 < len(stop.encode()) <= MOST_STOP_BYTES for stop in stops):
        raise ValueError(f"expected texts of 1 to {MOST_STOP_BYTES} bytes")
    return stops


def logit_bias(value: Any) -> dict[int, float]:
    """Token ids, written as texts, and what is added to their logits."""
    if not isinstance(value, dict) or not all(isinstance(number, (int, float)) and type(number) is not bool and -100 <= number <= 100
                                              for number in value.values()):
        raise ValueError("expected an object of numbers -100 to 100")
    if len(value) > MOST_BIASES:
        raise ValueError(f"at most {MOST_BIASES} tokens, got {len(value)}")
    for id in value:
        if not (id.isascii() and id.isdecimal() and len(id) < 10):
            raise ValueError(f"expected token ids, got {id[:40]!r}")
    return {int(id): float(number) for id, number in value.items()}


Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=0, lt=2 ** 31)]
MinP = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=-2 ** 63, lt=2 ** 63)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tokens = Annotated[int, Field(ge=1, le=LARGEST)]
Choices = Annotated[int, Field(ge=1, le=MOST_CHOICES)]
TopLogprobs = Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)]
Stops = Annotated[list[str], BeforeValidator(stop_texts)]
LogitBias = Annotated[dict[int, float], BeforeValidator(logit_bias)]
