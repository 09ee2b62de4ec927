"""What a forward pass went through: Model.trace() and its pictures."""
from __future__ import annotations

from typing import Any, Sequence

from . import _dsvk, chart
from .tables import cell, html_table


class Trace(dict[str, _dsvk.Array]):
    """Intermediates of one forward pass over n tokens, by name, float32 unless it says int32; numpy.asarray(trace[name]) sees them
    without a copy. Layers are numbered from 0; D hidden size, A experts of a token of E, r the layer's compression ratio.

        embedding, layers.L.streams                 [n, 4, D]  the streams that enter the first layer, that leave layer L
        layers.L.attn.input, layers.L.ffn.input     [n, D]     a sublayer's normalised input
        layers.L.attn.post, .attn.comb, .ffn. ...   [n, 4], [n, 4, 4]  hyper-connection coefficients that end the site
        layers.L.router.logits                      [n, E]
        layers.L.router.experts, .weights           [n, A]     int32; their weights
        layers.L.compressed                         [n // r, head_dim]  cache rows, decoded
        layers.L.indexer.keys                       [n // 4, index_dim]
        layers.L.indexer.selected                   [n, min(k, n // 4)] int32, ascending, -1 for none
        layers.L.indexer.scores                     [n, n // 4]  -inf where none was needed: all visible entries were taken
        logits                                      [n, vocabulary]

    A name is missing where a text is too short for an entry. `tokens` are the ids, `labels` their texts where there is a tokenizer.
    """

    def __init__(self, entries: dict[str, _dsvk.Array], tokens: Sequence[int], labels: Sequence[str], config: dict[str, Any]):
        super().__init__(entries)
        self.tokens, self.labels, self.config = list(tokens), list(labels), config

    def of_layer(self, layer: int) -> dict[str, _dsvk.Array]:
        """The entries of one layer, by the rest of their names: "router.experts"."""
        prefix = f"layers.{layer}."
        return {name.removeprefix(prefix): array for name, array in self.items() if name.startswith(prefix)}

    def expert_load(self) -> list[list[int]]:
        """[layers, E]: how many of the tokens chose each expert."""
        loads = []
        for layer in range(self.config["n_layers"]):
            counts = [0] * self.config["n_experts"]
            for row in self[f"layers.{layer}.router.experts"].tolist():
                for expert in row:
                    counts[expert] += 1
            loads.append(counts)
        return loads

    def plot_expert_load(self) -> chart.Picture:
        """A row for each layer, a column for each expert; even routing would be one shade."""
        share = 100 / len(self.tokens)
        return chart.heat_map("Expert load: % of tokens that chose an expert", [[share * n for n in row] for row in self.expert_load()],
                              "expert", "layer", "% of tokens")

    def plot_indexer(self, layer: int) -> chart.Picture:
        """Which compressed entries each token selected: rows are tokens, columns entries of four tokens; the score's shade where the
        indexer was asked, the lightest one where every visible entry was taken."""
        entries = self.of_layer(layer)
        if "indexer.selected" not in entries:
            raise _dsvk.InvalidError(f"layer {layer} has no indexer's selections: its kind is another, or the text is too short")
        scores = entries["indexer.scores"].tolist()
        cells: list[list[float | None]] = []
        for row, chosen in zip(scores, entries["indexer.selected"].tolist()):
            line: list[float | None] = [None] * len(row)
            for j in chosen:
                if j >= 0:
                    line[j] = max(row[j], 0.0)
            cells.append(line)
        what = "entries that tokens selected, by score" if any(score for line in cells for score in line) else \
            "every visible entry was taken, for there were no more than it selects"
        return chart.heat_map(f"Indexer of layer {layer}: {what}", cells, "compressed entry", "token", "score")

    def rows(self) -> list[dict[str, object]]:
        """Names, shapes and dtypes; those of layers in one line each."""
        lines: dict[str, dict[str, Any]] = {}
        for name, array in self.items():
            parts = name.split(".", 2)
            short = "layers.L." + parts[2] if parts[0] == "layers" else name
            line = lines.setdefault(f"{short} {array.shape}", {"name": short, "shape": str(list(array.shape)), "dtype": array.dtype,
                                                               "layers": []})
            if parts[0] == "layers":
                line["layers"].append(int(parts[1]))
        return [{**line, "layers": cell(line["layers"])} for line in lines.values()]

    def __repr__(self) -> str:
        return f"<dsvk.Trace of {len(self.tokens)} tokens, {len(self)} arrays>"

    def _repr_html_(self) -> str:
        return html_table(self.rows(), f"Trace of {len(self.tokens)} tokens") + self.plot_expert_load()._repr_html_()
