"""Model.trace against the whole model in numpy, and its pictures."""
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import reference

import dsvk


def random_tokens(n, seed=3):
    return np.random.default_rng(seed).integers(0, 1000, n).tolist()


class Recorder(reference.Model):
    """The reference, which writes down what it goes through under the names of a trace."""

    def forward(self, ids, state):
        self.seen, self.where = {}, []
        self.seen["logits"] = super().forward(ids, state)
        return self.seen["logits"]

    def note(self, name, value):
        self.seen[".".join([*self.where, name])] = np.array(value)

    def block(self, X, ids, pos, prefix, ratio, layer, hashed):
        self.seen.setdefault("embedding", X.copy())
        self.where = [prefix.rstrip(".")]
        X = super().block(X, ids, pos, prefix, ratio, layer, hashed)
        self.note("streams", X)
        return X

    def site(self, X, prefix, name, sublayer):
        self.where.append(name)
        mix = self.mix(X, f"{prefix}hc_{name}")
        scale, base = self.w(f"{prefix}hc_{name}_scale"), self.w(f"{prefix}hc_{name}_base")
        self.note("post", 2 * reference.sigmoid(mix[:, 4:8] * scale[1] + base[4:8]))

        def watched(x):
            self.note("input", x)
            return sublayer(x)
        X = super().site(X, prefix, name, watched)
        self.where.pop()
        return X

    def sinkhorn(self, comb):
        comb = super().sinkhorn(comb)
        self.note("comb", comb)
        return comb

    def compress(self, x, pos, prefix, pooling, ratio):
        rows = super().compress(x, pos, prefix, pooling, ratio)
        if "indexer" not in prefix:
            self.seen[f"{self.where[0]}.compressed"] = self.cache_row(rows)
        return rows

    def select(self, x, qr, pos, prefix, layer):
        chosen = super().select(x, qr, pos, prefix, layer)
        self.seen[f"{self.where[0]}.indexer.selected"] = chosen
        self.seen[f"{self.where[0]}.indexer.keys"] = np.array(layer.keys)
        return chosen

    def moe(self, x, ids, prefix, hashed):
        k, at = self.c["num_experts_per_tok"], f"{self.where[0]}.router."
        self.seen[at + "logits"] = logits = self.linear(x, prefix + "ffn.gate")
        score = np.sqrt(np.logaddexp(0, logits))
        chosen = self.w(prefix + "ffn.gate.tid2eid")[ids] if hashed else [
            reference.top_k(row, k) for row in score + self.w(prefix + "ffn.gate.bias")]
        self.seen[at + "experts"] = np.sort(chosen, 1)
        return super().moe(x, ids, prefix, hashed)


@pytest.fixture(scope="module")
def plain(device):
    """nano with float32 caches, so that nothing hangs on a rounding; the kernels of both steps are the same."""
    with dsvk.Model("nano", device=device, cache="f32", max_chunk=70) as model:
        yield model


@pytest.fixture(scope="module")
def traced(plain):
    """A trace of 140 tokens in two steps, and the reference's."""
    tokens, model = random_tokens(140), Recorder(dsvk.locate("nano"))
    model.forward(tokens, model.start())
    return plain.trace(tokens), model.seen


def test_every_intermediate_is_the_references(traced):
    trace, seen = traced
    chosen = {name: value for name, value in seen.items() if name.endswith(("selected", "experts"))}
    assert len(chosen) == 2 + trace.config["n_layers"]
    for name, expected in seen.items():
        got = np.asarray(trace[name])
        if name.endswith("selected"):
            assert [[j for j in row if j >= 0] for row in got.tolist()] == [list(row) for row in expected]
        elif name.endswith("experts"):
            assert got.dtype == np.int32 and (got == expected).all()
        else:
            assert got.shape == expected.shape and np.abs(got - expected).max() < 2e-5 * np.abs(expected).max(), name


def test_scores_and_weights_agree_with_what_was_chosen(traced):
    trace, _ = traced
    config = trace.config
    for layer in range(config["n_layers"]):
        entries = trace.of_layer(layer)
        np.testing.assert_allclose(np.asarray(entries["router.weights"]).sum(1), config["route_scale"], rtol=1e-5)
        if "indexer.scores" not in entries:
            continue
        scores, selected, k = np.asarray(entries["indexer.scores"]), np.asarray(entries["indexer.selected"]), config["index_topk"]
        for t in range(len(scores)):
            visible = (t + 1) // 4
            if visible <= k:
                assert np.isneginf(scores[t]).all() and selected[t][:visible].tolist() == list(range(visible))
            else:
                assert np.isfinite(scores[t][:visible]).all() and np.isneginf(scores[t][visible:]).all()
                assert selected[t].tolist() == reference.top_k(scores[t].astype(np.float64), k).tolist()


def test_names_shapes_and_what_is_missing(nano):
    config = nano.config
    trace = nano.trace([5, 6, 7])
    assert trace["logits"].shape == (3, nano.vocab_size) and trace["embedding"].shape == (3, 4, config["hidden_size"])
    assert not any("compressed" in name or "indexer" in name for name in trace)
    assert trace.tokens == [5, 6, 7] and trace.labels == [nano.tokenizer.decode([i]) for i in (5, 6, 7)]
    assert trace.of_layer(1).keys() == {"attn.input", "attn.post", "attn.comb", "ffn.input", "ffn.post", "ffn.comb", "router.logits",
                                        "router.experts", "router.weights", "streams"}
    text = nano.trace("ROMEO:")
    assert text.tokens == nano.prompt_tokens("ROMEO:") and "Trace" in repr(text)


def test_it_is_the_real_forward_pass(nano):
    """Logits are those of evaluate, bit for bit; a short trace (fused ops) has the numbers of a long one's beginning."""
    tokens = random_tokens(150)
    long, short = nano.trace(tokens), nano.trace(tokens[:20])
    with nano.session() as session:
        assert (np.asarray(session.evaluate(tokens)) == np.asarray(long["logits"])).all()
    for name, array in short.items():
        if "indexer" not in name:
            a, b = np.asarray(array), np.asarray(long[name])[:len(array)]
            assert np.median(np.abs(a - b)) < 1e-4 * np.abs(b).max() + 1e-6, name


def test_native_rows_are_decoded(nano):
    rows = np.asarray(nano.trace(random_tokens(140)).of_layer(2)["compressed"])
    assert rows.shape == (35, nano.config["head_dim"])
    np.testing.assert_array_equal(rows, np.concatenate([reference.fq8(rows[:, :64].astype(np.float64)), reference.bf16(rows[:, 64:])], 1))


def test_nothing_is_left_and_arrays_outlive(nano):
    nano.trace([1, 2, 3])
    before = nano.device.memory()["readback"]["used"], nano.device.memory()["cache"]["used"]
    array = nano.trace(random_tokens(10))["layers.0.streams"]
    assert (nano.device.memory()["readback"]["used"], nano.device.memory()["cache"]["used"]) == before
    assert np.isfinite(np.asarray(array)).all()


def test_what_cannot_be_traced(nano):
    with pytest.raises(dsvk.InvalidError, match="at least one token"):
        nano.trace([])
    with pytest.raises(dsvk.InvalidError, match="token 1 is 99999, the vocabulary has ids 0 to 2047"):
        nano.trace([1, 99999])
    with pytest.raises(dsvk.LimitError, match="70000 tokens are more than the model's context of 65536"):
        nano.trace([1] * 70000)
    with pytest.raises(RuntimeError, match="enough"):
        def stop(stage, done, total):
            raise RuntimeError("enough")
        nano.trace(random_tokens(300), progress=stop)
    assert nano.trace([1, 2])["logits"].shape[0] == 2


def drawn(picture):
    """The words of an SVG, which has to be well-formed."""
    root = ElementTree.fromstring(picture)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")], len(list(root.iter()))


def test_pictures(traced):
    trace, _ = traced
    assert np.sum(trace.expert_load(), 1).tolist() == [140 * trace.config["n_experts_per_token"]] * trace.config["n_layers"]
    words, shapes = drawn(trace.plot_expert_load())
    assert "expert" in words and "layer" in words and shapes > trace.config["n_experts"] * trace.config["n_layers"]
    words, _ = drawn(trace.plot_indexer(2))
    assert "Indexer of layer 2: entries that tokens selected, by score" in words
    assert "router.experts" in trace._repr_html_() and "<svg" in trace._repr_html_()
    with pytest.raises(dsvk.InvalidError, match="layer 0 has no indexer"):
        trace.plot_indexer(0)
