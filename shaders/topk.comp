/* Exact top-k of the visible scores of a row, spec 4.7: the k largest, equal scores to the lower index, NaN below everything;
 * indices ascending, -1 where there are fewer than k visible. scores [n, scores_stride], idx [n, k].
 *
 * Scores map to unsigned keys of the same order (order.glsl), whose digits of 11, 11 and 10 bits a radix select goes through.
 * The histogram of the first digit is there already: the indexer counted its scores as it made them. So every workgroup
 * (g, t) knows which bin of the first digit holds the k-th largest key of row t. It reads its share of the scores, lists the
 * indices of all keys in or above that bin, and counts the second digit of those in it. The workgroup that ends last finds the
 * second digit, counts the third one where that is still open, and writes the indices of all keys > T, the k-th largest, and of the
 * first keys = T, each at its rank; it goes through the lists only.
 * A score is read once by all, and at most twice more by the last one if it is listed: three passes whatever the scores are,
 * and one pass and two short lists when they spread over many bins. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "topk.h"
layout(local_size_x = TOPK_LANES) in;
#include "memory.glsl"
#include "order.glsl"
#include "last.glsl"

layout(push_constant, scalar) uniform Args { topk_args a; };

const uint LANES = TOPK_LANES, EACH = TOPK_BINS / LANES;
const uint FETCH = 4u;                  /* words of four scores that an invocation has on their way at once */
const uint LISTED = 4u;                 /* elements of the lists that an invocation has on their way at once */
layout(buffer_reference, scalar, buffer_reference_align = 16) coherent buffer Bins4 { uvec4 v[]; };

shared uint starts[TOPK_MAX_GROUPS];    /* of the workgroups' lists in the row's list */
shared uint part[LANES / 4u];           /* one per subgroup */
struct Bin { uint index, above, count; };
shared Bin found;

/* Sum of x over the invocations before this one, in the order of (subgroup, invocation); all: over the workgroup. */
uint scan(uint x, out uint all) {
    uint before = subgroupExclusiveAdd(x), sum = subgroupAdd(x);
    barrier(); /* part may still be read by an earlier call */
    if (subgroupElect())
        part[gl_SubgroupID] = sum;
    barrier();
    all = 0u;
    [[dont_unroll]] for (uint i = 0u; i < gl_NumSubgroups; i++) {
        if (i == gl_SubgroupID)
            before += all;
        all += part[i];
    }
    return before;
}

/* Which of TOPK_BINS bins holds the left-th key from above, how many keys lie in higher ones, and how many in it. Each invocation
 * adds up EACH neighbouring bins, the highest ones first; then each takes one bin of the run that holds it. */
Bin find_bin(uint lane, uvec2 bins, uint left) {
    uint sum = 0u, all;
    [[unroll]] for (uint i = 0u; i < EACH / 4u; i++) {
        uvec4 four = Bins4(bins).v[(TOPK_BINS - EACH * lane) / 4u - 1u - i];
        sum += four.x + four.y + four.z + four.w;
    }
    uint above = scan(sum, all);
    if (above < left && above + sum >= left)
        found = Bin(TOPK_BINS - 1u - EACH * lane, above, sum);
    barrier();
    uint bin = found.index - min(lane, EACH - 1u), count = lane < EACH ? SharedWords(bins).v[bin] : 0u;
    above = found.above;
    above += scan(count, all); /* whose barriers keep `found` until it has been read */
    if (above < left && above + count >= left)
        found = Bin(bin, above, count);
    barrier();
    return found;
}

/* Lists this workgroup's indices of keys in or above bin `first` of the first digit, and counts the second digit of those in it. */
void collect(uint lane, uint t, uint visible, uint first, uvec2 second_bins, uvec2 lists) {
    uvec2 row = add_product(a.scores, t, a.scores_stride * 4u);
    uint begin = gl_WorkGroupID.x * a.share, end = min(begin + a.share, visible), quads = (visible + 3u) / 4u, listed = 0u, all;
    for (uint block = begin; block < end; block += LANES * 4u * FETCH) {
        uint i = block + lane * 4u * FETCH, members = 0u; /* its scores are i .. i + 4 FETCH - 1 */
        vec4 s[FETCH];
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            s[u] = Vec4s(row).v[min((i >> 2) + u, quads - 1u)];
        [[unroll]] for (uint u = 0u; u < FETCH; u++)
            [[unroll]] for (uint j = 0u; j < 4u; j++) {
                uint key = order_key(s[u][j]), bit = 4u * u + j;
                members |= uint(i + bit < end && key >> 21 >= first) << bit;
            }
        uint rank = listed + scan(bitCount(members), all);
        for (; members != 0u; members &= members - 1u) {
            uint index = i + findLSB(members), key = order_key(Floats(row).v[index]);
            SharedWords(lists).v[TOPK_MAX_GROUPS + begin + rank++] = index;
            if (key >> 21 == first)
                atomicAdd(SharedWords(second_bins).v[key >> 10 & TOPK_BINS - 1u], 1u);
        }
        listed += all;
    }
    if (lane == 0u)
        SharedWords(lists).v[gl_WorkGroupID.x] = listed;
}

/* Elements e .. e + LISTED - 1 of the row's list (the last one beyond its end): indices and keys. */
void load_listed(uint e, uint total, uint groups, uvec2 lists, Floats scores, out uint index[LISTED], out uint key[LISTED]) {
    uint group[LISTED]; /* the last one that starts at the element or before */
    [[unroll]] for (uint j = 0u; j < LISTED; j++)
        group[j] = 0u;
    [[dont_unroll]] for (uint half_way = TOPK_MAX_GROUPS / 2u; half_way > 0u; half_way >>= 1u) /* each waits for the one before */
        [[unroll]] for (uint j = 0u; j < LISTED; j++) {
            uint next = group[j] + half_way;
            if (next < groups && starts[next] <= min(e + j, total - 1u))
                group[j] = next;
        }
    [[unroll]] for (uint j = 0u; j < LISTED; j++)
        index[j] = SharedWords(lists).v[TOPK_MAX_GROUPS + group[j] * a.share + min(e + j, total - 1u) - starts[group[j]]];
    [[unroll]] for (uint j = 0u; j < LISTED; j++)
        key[j] = order_key(scores.v[index[j]]);
}

/* Both histograms, ready for the next digit or the next step. */
void clear(uint lane, uvec2 bins) {
    for (uint i = lane; i < 2u * TOPK_BINS / 4u; i += LANES)
        Bins4(bins).v[i] = uvec4(0u);
}

/* Chooses from the lists. `left` keys of bin `first` are wanted. */
void finish(uint lane, uint t, uint groups, uint first, uint left, uvec2 bins, uvec2 lists) {
    Floats scores = Floats(add_product(a.scores, t, a.scores_stride * 4u));
    uvec2 second_bins = add_bytes(bins, TOPK_BINS * 4u);
    uint total, all;
    uint before = scan(lane < groups ? SharedWords(lists).v[lane] : 0u, total);
    if (lane < groups)
        starts[lane] = before;
    Bin bin = find_bin(lane, second_bins, left);
    uint prefix = first << 21 | bin.index << 10, mask = 0xfffffc00u;
    left -= bin.above;
    clear(lane, bins);
    if (bin.count != left) { /* else all of the second digit's keys are taken */
        memoryBarrierBuffer();
        barrier();
        for (uint block = 0u; block < total; block += LANES * LISTED) {
            uint e = block + lane * LISTED, index[LISTED], key[LISTED];
            load_listed(e, total, groups, lists, scores, index, key);
            [[unroll]] for (uint j = 0u; j < LISTED; j++)
                if (e + j < total && (key[j] & mask) == prefix)
                    atomicAdd(SharedWords(second_bins).v[key[j] & 1023u], 1u);
        }
        memoryBarrierBuffer();
        barrier();
        bin = find_bin(lane, second_bins, left);
        left -= bin.above;
        prefix |= bin.index;
        mask = 0xffffffffu;
        clear(lane, bins);
    }

    WordsOut idx = WordsOut(add_product(a.idx, t, a.k * 4u));
    uint taken = 0u, ties = 0u;
    for (uint block = 0u; block < total; block += LANES * LISTED) {
        uint e = block + lane * LISTED, index[LISTED], key[LISTED], higher = 0u, equal = 0u;
        load_listed(e, total, groups, lists, scores, index, key);
        [[unroll]] for (uint j = 0u; j < LISTED; j++)
            if (e + j < total) {
                higher |= uint((key[j] & mask) > prefix) << j;
                equal |= uint((key[j] & mask) == prefix) << j;
            }
        before = scan(bitCount(higher) | bitCount(equal) << 16, all);
        uint rank = taken + (before & 0xffffu), tie = ties + (before >> 16);
        [[unroll]] for (uint j = 0u; j < LISTED; j++) {
            uint is_higher = higher >> j & 1u, is_equal = equal >> j & 1u;
            uint place = rank + min(tie, left);
            if ((is_higher != 0u || (is_equal != 0u && tie < left)) && place < a.k)
                idx.v[place] = index[j];
            rank += is_higher;
            tie += is_equal;
        }
        taken += all & 0xffffu;
        ties += all >> 16;
    }
}

void main() {
    uint t = gl_WorkGroupID.y;
    uint visible = min((Rows(a.rows).v[t].position + 1u) / 4u, a.scores_stride);
    uint lane = invocation(); /* which is the scan's order: subgroups are runs of it (reduce.glsl, indexer.comp) */
    if (visible <= a.k) {
        if (gl_WorkGroupID.x == 0u)
            for (uint i = lane; i < a.k; i += LANES)
                WordsOut(add_product(a.idx, t, a.k * 4u)).v[i] = i < visible ? i : 0xffffffffu;
        return;
    }
    uint groups = (visible + a.share - 1u) / a.share;
    if (gl_WorkGroupID.x >= groups) /* the grid is for the longest row there may be */
        return;
    uvec2 bins = add_product(a.bins, t, TOPK_BINS_WORDS * 4u);
    uvec2 lists = add_product(a.list, t, (TOPK_MAX_GROUPS + a.scores_stride) * 4u);
    Bin first = find_bin(lane, bins, a.k);
    collect(lane, t, visible, first.index, add_bytes(bins, TOPK_BINS * 4u), lists);
    if (last_workgroup(add_bytes(bins, 2u * TOPK_BINS * 4u), groups))
        finish(lane, t, groups, first.index, a.k - first.above, bins, lists);
}
