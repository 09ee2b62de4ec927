/* Counting sort of the n * k (row, slot) pairs by expert, and the tiles that moe_expert works through: tiles[i] = (expert, first,
 * count, 0) over `pairs`, at most `tile` pairs each, experts ascending, count 0 beyond the last. The order of the pairs of one
 * expert is not defined; no result depends on it. One workgroup does it all: counts in shared memory, an exclusive
 * scan over invocations that own neighbouring experts, then every pair takes the next place of its expert. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "moe_sort.h"
#include "memory.glsl"

#define WORKGROUP 256u
layout(local_size_x = WORKGROUP) in;
layout(push_constant, scalar) uniform Args { moe_sort_args a; };
layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly restrict buffer Words4Out { uvec4 v[]; };

shared uint places[MOE_SORT_MAX_EXPERTS]; /* pairs of the expert, then its next free place in `pairs` */
shared uvec2 scan[WORKGROUP];             /* pairs and tiles of the invocations up to this one */

uint expert_of(uint pair) { return min(Words(a.idx).v[pair], a.n_experts - 1u); }
uint tiles_of(uint pairs) { return (pairs + a.tile - 1u) / a.tile; }

void main() {
    const uint lane = invocation();
    const uint share = (a.n_experts + WORKGROUP - 1u) / WORKGROUP;
    const uint first = min(lane * share, a.n_experts), last = min(first + share, a.n_experts);

    for (uint e = lane; e < a.n_experts; e += WORKGROUP)
        places[e] = 0u;
    barrier();
    for (uint i = lane; i < a.n_pairs; i += WORKGROUP)
        atomicAdd(places[expert_of(i)], 1u);
    barrier();

    uvec2 own = uvec2(0u);
    for (uint e = first; e < last; e++)
        own += uvec2(places[e], tiles_of(places[e]));
    scan[lane] = own;
    barrier();
    for (uint step = 1u; step < WORKGROUP; step <<= 1u) {
        const uvec2 before = lane >= step ? scan[lane - step] : uvec2(0u);
        barrier();
        scan[lane] += before;
        barrier();
    }

    uvec2 at = scan[lane] - own; /* place of the next pair, index of the next tile */
    for (uint e = first; e < last; e++) {
        const uint count = places[e];
        for (uint done = 0u; done < count; done += a.tile)
            Words4Out(a.tiles).v[at.y++] = uvec4(e, at.x + done, min(a.tile, count - done), 0u);
        places[e] = at.x;
        at.x += count;
    }
    for (uint i = scan[WORKGROUP - 1u].y + lane; i < a.max_tiles; i += WORKGROUP)
        Words4Out(a.tiles).v[i] = uvec4(0u);
    barrier();
    for (uint i = lane; i < a.n_pairs; i += WORKGROUP)
        WordsOut(a.pairs).v[atomicAdd(places[expert_of(i)], 1u)] = i;
}
