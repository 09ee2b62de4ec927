/* Hyper-connections, spec 4.3, second half, and the RMSNorm behind it (4.2), of one row by a whole workgroup:
 *   rs = 1 / sqrt(sum X^2 / (4 DIM) + eps);  mix[m] = rs * sum over chunks of partials[m]
 *   pre = sigmoid(mix[0..3] * scale[0] + base) + hc_eps;  post = 2 sigmoid(mix[4..7] * scale[1] + base)
 *   comb = Sinkhorn(mix[8..23] * scale[2] + base), rows = source streams
 *   x[d] = sum_k pre[k] * X[k][d];  result = norm * x / sqrt(mean x^2 + eps)
 * N_MIX 4 is the head's form: only pre. x stays in registers between the two passes. A single row waits for memory and nothing
 * else: loads are not conditional, so that they can be on their way together.
 * Include after memory.glsl, numbers.glsl, reduce.glsl and hyper_conn_mix.h, with DIM, N_MIX and PIECES defined, the number of
 * pieces whose reductions are there for each chunk (1, or MIX_CHUNK / 32 for tiles). ACTIVATIONS and REDUCTIONS are the types
 * that streams and partials are read through: Vec4s and Floats, or SharedVec4s and SharedFloats (last.glsl) for what the same
 * dispatch has written. */
const uint CHUNKS = (DIM + MIX_CHUNK - 1u) / MIX_CHUNK;
const uint SUMS_PER_LANE = (CHUNKS * (N_MIX + 1u) + WORKGROUP - 1u) / WORKGROUP;
const uint PER_LANE = (DIM + 4u * WORKGROUP - 1u) / (4u * WORKGROUP); /* vec4 of x per invocation */

struct Coefficients {
    uvec2 x;           /* f32 [*, 4, DIM] */
    uvec2 base, scale; /* f32 [N_MIX], [3] or [1] */
    uvec2 norm;        /* f32 [DIM] */
    uvec2 result;      /* f32 [n, DIM] */
    uvec2 post, comb;  /* f32 [n, 4], [n, 4, 4]; not written for N_MIX 4 */
    uint sinkhorn_iters;
    float eps, hc_eps;
};

shared float chunk_sums[CHUNKS * (N_MIX + 1u)]; /* [chunk][m] */
shared float total[N_MIX + 1u];

vec4 sigmoid4(vec4 v) { return vec4(sigmoid(v.x), sigmoid(v.y), sigmoid(v.z), sigmoid(v.w)); }

/* Four logits: mix[first ..] scaled and shifted. `precise` here and below: every kernel that makes coefficients gives the same bits. */
vec4 logits(const Coefficients c, float rs, uint first, float scale) {
    precise vec4 mix = vec4(total[first], total[first + 1u], total[first + 2u], total[first + 3u]) * rs;
    precise vec4 result = mix * scale + Vec4s(c.base).v[first >> 2];
    return result;
}

vec4 softmax4(vec4 v) {
    v -= max(max(v.x, v.y), max(v.z, v.w));
    v = vec4(exp_exact(v.x), exp_exact(v.y), exp_exact(v.z), exp_exact(v.w));
    precise vec4 result = v / (((v.x + v.y) + v.z) + v.w);
    return result;
}

/* Divides by the sums plus hc_eps, by one reciprocal per sum. c[j][k]: j source (row), k destination (column). */
void normalise_rows(inout vec4 c[4], float hc_eps) {
    for (uint j = 0u; j < 4u; j++) {
        precise float inverse = 1.0 / ((((c[j].x + c[j].y) + c[j].z) + c[j].w) + hc_eps);
        c[j] *= inverse;
    }
}
void normalise_columns(inout vec4 c[4], float hc_eps) {
    precise vec4 inverse = 1.0 / ((((c[0] + c[1]) + c[2]) + c[3]) + hc_eps);
    for (uint j = 0u; j < 4u; j++)
        c[j] *= inverse;
}

/* One invocation writes post and comb: 4x4 values are too few to share out, and nothing here waits for them. */
void write_coefficients(const Coefficients c, uint row, float rs) {
    Vec4sOut(c.post).v[row] = 2.0 * sigmoid4(logits(c, rs, 4u, Floats(c.scale).v[1]));
    precise vec4 comb[4];
    for (uint j = 0u; j < 4u; j++)
        comb[j] = softmax4(logits(c, rs, 8u + 4u * j, Floats(c.scale).v[2])) + c.hc_eps;
    normalise_columns(comb, c.hc_eps);
    for (uint i = 1u; i < c.sinkhorn_iters; i++) {
        normalise_rows(comb, c.hc_eps);
        normalise_columns(comb, c.hc_eps);
    }
    for (uint j = 0u; j < 4u; j++)
        Vec4sOut(c.comb).v[row * 4u + j] = comb[j];
}

/* Row `source` of the streams and of partials, f32 [*][pieces][N_MIX + 1], becomes row `row` of result, post and comb. */
void hyper_conn_pre_row(const Coefficients c, uvec2 partials, uint source, uint row) {
    const uint lane = invocation(), sums = N_MIX + 1u, last = (DIM * PIECES + MIX_CHUNK - 1u) / MIX_CHUNK - 1u;
    REDUCTIONS from = REDUCTIONS(add_product(partials, source, (last + 1u) * sums * 4u));
    float part[SUMS_PER_LANE * PIECES];
    [[unroll]] for (uint i = 0u; i < SUMS_PER_LANE; i++)
        [[unroll]] for (uint p = 0u; p < PIECES; p++) {
            const uint at = min(lane + i * WORKGROUP, CHUNKS * sums - 1u);
            part[i * PIECES + p] = from.v[min(at / sums * PIECES + p, last) * sums + at % sums];
        }
    [[unroll]] for (uint i = 0u; i < SUMS_PER_LANE; i++) {
        const uint at = lane + i * WORKGROUP;
        precise float sum = part[i * PIECES];
        [[unroll]] for (uint p = 1u; p < PIECES; p++)
            sum += at / sums * PIECES + p <= last ? part[i * PIECES + p] : 0.0;
        if (at < CHUNKS * sums)
            chunk_sums[at] = sum;
    }
    barrier();
    if (lane <= N_MIX) {
        precise float sum = 0.0;
        for (uint i = 0u; i < CHUNKS; i++)
            sum += chunk_sums[i * (N_MIX + 1u) + lane];
        total[lane] = sum;
    }
    barrier();
    precise float rs = 1.0 / sqrt(total[N_MIX] / float(4u * DIM) + c.eps);
    precise vec4 pre = sigmoid4(logits(c, rs, 0u, Floats(c.scale).v[0])) + c.hc_eps;

    ACTIVATIONS streams = ACTIVATIONS(add_product(c.x, source, DIM * 16u));
    vec4 x[PER_LANE];
    precise float squares = 0.0;
    for (uint i = 0u; i < PER_LANE; i++) {
        uint d4 = lane + i * WORKGROUP;
        precise vec4 sum = vec4(0.0);
        for (uint k = 0u; k < 4u; k++)
            sum += pre[k] * streams.v[k * (DIM / 4u) + min(d4, DIM / 4u - 1u)];
        x[i] = d4 < DIM / 4u ? sum : vec4(0.0);
        squares += (x[i].x * x[i].x + x[i].y * x[i].y) + (x[i].z * x[i].z + x[i].w * x[i].w);
    }
    precise float factor = 1.0 / sqrt(reduce_sum(squares) / float(DIM) + c.eps);
    Vec4sOut result = Vec4sOut(add_product(c.result, row, DIM * 4u));
    for (uint i = 0u; i < PER_LANE; i++) {
        uint d4 = lane + i * WORKGROUP;
        if (d4 < DIM / 4u)
            result.v[d4] = Vec4s(c.norm).v[d4] * (x[i] * factor);
    }
    if (N_MIX > 4u && lane == WORKGROUP - 1u)
        write_coefficients(c, row, rs);
}
