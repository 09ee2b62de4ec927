/* Sums over a workgroup. WORKGROUP is the number of invocations (a literal or specialization constant, a multiple of 16), defined
 * before the include. Every invocation must call; every invocation gets the result.
 * The order of additions is one whatever subgroup size a driver chooses for a pipeline: groups of four neighbours, which every
 * subgroup has, then of sixteen, then those in order. So a sum has the same bits in every kernel that spreads its terms over the
 * same invocations, and a wider workgroup that adds zeros changes nothing. */
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require

shared float reduce_part[WORKGROUP / 4u];

float reduce_four(uint i) {
    precise float sum = (reduce_part[i] + reduce_part[i + 1u]) + (reduce_part[i + 2u] + reduce_part[i + 3u]);
    return sum;
}

/* Whether eight neighbours are always in one subgroup. Asked of processors only, for which a barrier and a value read by every
 * subgroup are dear; a GPU's kernel needs no second way. */
bool eight_neighbours() { return SOFTWARE && gl_SubgroupSize >= 8u; }

float reduce_sum(float x) {
    x += subgroupShuffleXor(x, 1u);
    x += subgroupShuffleXor(x, 2u);
    if (eight_neighbours())
        x += subgroupShuffleXor(x, 4u);
    barrier(); /* reduce_part may still be read by an earlier call */
    if (invocation() % 4u == 0u)
        reduce_part[invocation() / 4u] = x;
    barrier();
    precise float total = 0.0;
    if (eight_neighbours())
        [[dont_unroll]] for (uint i = 0u; i < WORKGROUP / 4u; i += 4u) {
            precise float sum = reduce_part[i] + reduce_part[i + 2u];
            total += sum;
        }
    else if (SOFTWARE)
        [[dont_unroll]] for (uint i = 0u; i < WORKGROUP / 4u; i += 4u)
            total += reduce_four(i);
    else
        [[unroll]] for (uint i = 0u; i < WORKGROUP / 4u; i += 4u)
            total += reduce_four(i);
    return total;
}
