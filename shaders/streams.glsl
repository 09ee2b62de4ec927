/* The four streams of hyper-connections, spec 4.3: HC-post and the products of the next HC-pre, four values of d at a time. Additions
 * are in a fixed order and never fused, so that every kernel that uses these gives the same bits. Include after memory.glsl. */

/* Streams in and out may be one place, so neither is `restrict`; `coherent` for what the same dispatch reads again. */
layout(buffer_reference, scalar, buffer_reference_align = 16) buffer StreamsInOut { vec4 v[]; };

/* The 4 streams of a row at d4 (in units of 4 values). */
struct Streams { vec4 k[4]; };

/* Stream k after the sublayer: post[k] * y + sum_j comb[j][k] * X[j]; comb: column k. */
vec4 post_stream(const Streams x, vec4 y, float post, vec4 comb) {
    precise vec4 sum = post * y;
    for (uint j = 0u; j < 4u; j++)
        sum += comb[j] * x.k[j];
    return sum;
}

/* Sum over the 4 streams and 4 values of d. */
float product(const Streams f, const Streams x) {
    precise vec4 sum = f.k[0] * x.k[0];
    for (uint k = 1u; k < 4u; k++)
        sum += f.k[k] * x.k[k];
    precise float total = (sum.x + sum.y) + (sum.z + sum.w);
    return total;
}
