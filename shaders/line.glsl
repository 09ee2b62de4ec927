/* A line: up to 4 * WORKGROUP values spread over a workgroup, invocation `lane` holding values 4 lane .. 4 lane + 3 as a vec4.
 * What quant_row, quant_index and kv_compress do to a line before it is stored: RMSNorm, FQ8 scales, Hadamard, FQ4 scales.
 * Include after memory.glsl, numbers.glsl and reduce.glsl (which define WORKGROUP's rules). Every invocation calls every
 * function, those beyond the line with zeros; the order of operations depends on nothing but the width. */

shared vec4 line_exchange[WORKGROUP];
shared uint line_words[WORKGROUP];

float line_max4(vec4 v) {
    vec4 m = abs(v);
    return max(max(m.x, m.y), max(m.z, m.w));
}

/* 4.2 over the first `dim` values; v of the other invocations must be zero. `weight` f32 [dim]. */
vec4 line_rms_norm(vec4 v, uvec2 weight, uint dim, float eps) {
    uint lane = invocation();
    precise float squares = (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    float factor = 1.0 / sqrt(reduce_sum(squares) / float(dim) + eps);
    return 4u * lane < dim ? Vec4s(weight).v[lane] * (v * factor) : vec4(0.0);
}

/* Largest magnitude of the block of `lanes` invocations (a power of two, at least 4) that this one belongs to. */
float line_block_max(vec4 v, uint lanes) {
    uint lane = invocation();
    float best = line_max4(v);
    best = max(best, subgroupShuffleXor(best, 1u));
    best = max(best, subgroupShuffleXor(best, 2u));
    if (eight_neighbours()) {
        best = max(best, subgroupShuffleXor(best, 4u));
        if (lanes <= 8u)
            return best;
    }
    barrier(); /* line_exchange may still be read by an earlier call */
    if (lane % 4u == 0u)
        line_exchange[lane / 4u].x = best;
    barrier();
    uint first = (lane & ~(lanes - 1u)) / 4u;
    for (uint i = 0u; i < lanes / 4u; i++)
        best = max(best, line_exchange[first + i].x);
    return best;
}

/* Packs the scale bytes of four neighbouring blocks of `lanes` invocations: valid in the first invocation of the four. */
uint line_pack_scales(uint scale, uint lanes) {
    uint lane = invocation();
    barrier();
    line_words[lane] = scale;
    barrier();
    uint word = 0u;
    for (uint i = 0u; i < 4u; i++)
        if (lane + i * lanes < WORKGROUP)
            word |= line_words[lane + i * lanes] << (8u * i);
    return word;
}

/* The 16-bit values of an even invocation and its neighbour as one word: valid in the even one. */
uint line_pack_pair(uint half_word) { return half_word | subgroupShuffleXor(half_word, 1u) << 16; }

vec4 line_butterfly(vec4 v, uint stride) {
    uint lane = invocation();
    vec4 other;
    if (eight_neighbours() && stride < 8u)
        other = subgroupShuffleXor(v, stride);
    else {
        barrier();
        line_exchange[lane] = v;
        barrier();
        other = line_exchange[lane ^ stride];
    }
    return (lane & stride) == 0u ? v + other : other - v;
}

/* 3.7 over every run of `dim` values (a power of two, at least 4): butterflies with strides 1, 2, 4 .., then * dim^-0.5. */
vec4 line_hadamard(vec4 v, uint dim) {
    v = vec4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    v = vec4(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w);
    if (SOFTWARE)
        [[dont_unroll]] for (uint stride = 1u; stride < dim / 4u; stride <<= 1u)
            v = line_butterfly(v, stride);
    else
        for (uint stride = 1u; stride < dim / 4u; stride <<= 1u)
            v = line_butterfly(v, stride);
    int log2_dim = findMSB(dim);
    return v * (exp2_int(-(log2_dim >> 1)) * ((log2_dim & 1) == 0 ? 1.0 : 0.7071067811865476));
}
