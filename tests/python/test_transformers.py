"""The engine's logits against those of transformers' DeepseekV4ForCausalLM, in float32, on the same checkpoint.

Two checkpoints: a random one whose statistics let every part of the model matter, and nano, which is trained. transformers
gets the stored weights decoded to float32 and runs in float32, so BF16 rounding of activations, the best-known difference
between the two, does not arise. The caches of the engine are float32 here: transformers has no FP8 rows and no FP4 index
keys. Its 1e-20 in the normalisation of routing weights is below float32 resolution, and applying those weights after
instead of before the down projection is the same number.

What remains is the order of float32 sums, unless two nearly equal scores change places and another expert or index entry
is chosen. Exact ties are the usual case of that: with few index heads the relu makes many scores exactly zero, and then
transformers takes any entry where the engine takes the first. So the random checkpoint has many index heads, and nano is
read only as far as its attention takes every entry anyway.
"""
import json
import pathlib
import sys

import numpy as np
import pytest

dsvk = pytest.importorskip("dsvk")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
pytest.importorskip("transformers.models.deepseek_v4")
safetensors = pytest.importorskip("safetensors")

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "python"), str(ROOT / "tools")]

from checkpoint import TINY, tokens, write_checkpoint                                      # noqa: E402
from nano_checkpoint import load_checkpoint                                                # noqa: E402

NANO = ROOT / "python" / "dsvk" / "nano"

# 300 tokens are past two HCA entries and the window, and far past the start of index selection; 32 heads: no ties at zero.
CONFIG = {**TINY, "index_n_heads": 32}
LENGTH = 300

# Largest difference over the largest logit. The same sums in float64 differ from transformers by 4e-7; a GPU adds in
# another order, through six layers. A wrong formula, position or scale shows at 1e-2.
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("random")
    write_checkpoint(CONFIG, directory, 5)
    return directory


def transformers_logits(directory, ids):
    """-> float32 [n, V]. The configuration without the quantisation it announces: weights arrive decoded."""
    config, state = load_checkpoint(directory)
    for key in ("quantization_config", "expert_dtype", "torch_dtype"):
        config.pop(key, None)
    config = transformers.DeepseekV4Config(**config)
    config._attn_implementation = "eager"
    model = transformers.DeepseekV4ForCausalLM(config).eval()
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith("mtp.")}, strict=True)
    with torch.no_grad():
        return model(torch.from_numpy(np.array([ids]))).logits[0].numpy()


def engine_logits(directory, ids, chunk):
    session = dsvk.Model(str(directory), cache="f32").session(context=512)
    return np.asarray(session.evaluate(ids, chunk=chunk))


def compare(got, want):
    assert got.shape == want.shape and got.dtype == np.float32
    assert np.isfinite(got).all()
    error = np.abs(got - want).max(1) / np.abs(want).max()
    assert error.max() < ROUNDING, f"row {error.argmax()} differs by {error.max():.2e}, the median row by {np.median(error):.2e}"


@pytest.mark.parametrize("chunk", [64, 300])
def test_random_checkpoint(random_checkpoint, chunk):
    ids = tokens(11, CONFIG["vocab_size"], LENGTH)
    compare(engine_logits(random_checkpoint, ids, chunk), transformers_logits(random_checkpoint, ids))


def test_nano():
    config = json.loads((NANO / "config.json").read_text(encoding="utf-8"))
    without_selection = 4 * config["index_topk"] + 3
    ids = np.append([0], tokens(12, config["vocab_size"], without_selection - 1))
    compare(engine_logits(NANO, ids, 64), transformers_logits(NANO, ids))
