/* What all kernels of index scores say about rows: which keys a row sees, which rows share them, where a score goes. */

layout(push_constant, scalar) uniform Args { indexer_args a; };

uint visible_keys(Row row) {
    uint visible = min((row.position + 1u) / 4u, a.scores_stride);
    return visible <= a.k ? 0u : visible;
}

void store_score(uint row, uint key, float score) {
    FloatsOut(add_product(a.scores, row, a.scores_stride * 4u)).v[key] = score;
    atomicAdd(WordsInOut(add_product(a.bins, row, TOPK_BINS_WORDS * 4u)).v[order_key(score) >> 21], 1u);
}
