/* Sums over a workgroup of any subgroup size. `lane` is gl_LocalInvocationIndex, WORKGROUP the number of
 * invocations (a literal or specialization constant, a multiple of 64, at most 256) defined before the include. Every
 * invocation must call; every invocation gets the result. The order of additions depends only on the subgroup size. */
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require

shared float reduce_part[64]; /* one per subgroup, at least 4 invocations each */

float reduce_sum(float x) {
    x = subgroupAdd(x);
    barrier(); /* reduce_part may still be read by an earlier call */
    if (subgroupElect())
        reduce_part[gl_SubgroupID] = x;
    barrier();
    float total = 0.0;
    for (uint i = 0u; i < gl_NumSubgroups; i++)
        total += reduce_part[i];
    return total;
}
