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
const uint LISTED = 8u;                 /* elements of the lists that an invocation has on their way at once */
const uint THIRD = 1024u;               /* bins of the last digit */
layout(buffer_reference, scalar, buffer_reference_align = 16) coherent buffer Bins4 { uvec4 v[]; };

shared uint third[THIRD];
shared uint starts[TOPK_MAX_GROUPS];    /* of the workgroups' lists in the row's list */
shared uint part[LANES / 4u];           /* one per subgroup */
shared uint found_digit, found_above, found_count;

/* Sum of x over the invocations before this one, in the order of (subgroup, invocation); all: over the workgroup. */
uint scan(uint x, out uint all) {
    uint before = subgroupExclusiveAdd(x), sum = subgroupAdd(x);
    barrier(); /* part may still be read by an earlier call */
    if (subgroupElect())
        part[gl_SubgroupID] = sum;
    barrier();
    all = 0u;
    for (uint i = 0u; i < gl_NumSubgroups; i++) {
        if (i == gl_SubgroupID)
            before += all;
        all += part[i];
    }
    return before;
}

/* The digit that holds the left-th key from above: counts are those of digits `lane` * EACH + 0 .. EACH - 1, from the highest down.
 * digit counts from the highest too; above: how many keys lie in higher digits; count: in this one. */
struct Digit { uint from_top, above, count; };
Digit find_digit(uint lane, const uint counts[EACH], uint left) {
    uint sum = 0u, all;
    [[unroll]] for (uint i = 0u; i < EACH; i++)
        sum += counts[i];
    uint above = scan(sum, all);
    if (above < left && above + sum >= left) {
        bool open = true;
        [[unroll]] for (uint i = 0u; i < EACH; i++)
            if (open) {
                open = above + counts[i] < left;
                if (open) {
                    above += counts[i];
                } else {
                    found_digit = lane * EACH + i;
                    found_above = above;
                    found_count = counts[i];
                }
            }
    }
    barrier();
    return Digit(found_digit, found_above, found_count);
}

/* The same for one of the row's histograms in memory; the digit itself in from_top. */
Digit find_bin(uint lane, uvec2 bins, uint left) {
    uint counts[EACH];
    [[unroll]] for (uint i = 0u; i < EACH; i += 4u) {
        uvec4 four = Bins4(bins).v[(TOPK_BINS - EACH * lane - i) / 4u - 1u];
        [[unroll]] for (uint j = 0u; j < 4u; j++)
            counts[i + j] = four[3u - j];
    }
    Digit d = find_digit(lane, counts, left);
    d.from_top = TOPK_BINS - 1u - d.from_top;
    return d;
}

/* Lists this workgroup's indices of keys in or above bin `first` of the first digit, and counts the second digit of those in it. */
void collect(uint lane, uint t, uint visible, uint first, uvec2 second_bins, uvec2 list) {
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
            SharedWords(list).v[1u + rank++] = index;
            if (key >> 21 == first)
                atomicAdd(SharedWords(second_bins).v[key >> 10 & TOPK_BINS - 1u], 1u);
        }
        listed += all;
    }
    if (lane == 0u)
        SharedWords(list).v[0] = listed;
}

/* Elements e .. e + LISTED - 1 of the row's list (the last one beyond its end): indices and keys. */
void load_listed(uint e, uint total, uint groups, uvec2 lists, Floats scores, out uint index[LISTED], out uint key[LISTED]) {
    [[unroll]] for (uint j = 0u; j < LISTED; j++) {
        uint at = min(e + j, total - 1u), group = 0u; /* the last one that starts at `at` or before */
        [[unroll]] for (uint step = TOPK_MAX_GROUPS / 2u; step > 0u; step /= 2u)
            if (step < groups && group + step < groups && starts[group + step] <= at)
                group += step;
        index[j] = SharedWords(lists).v[group * (1u + a.share) + 1u + at - starts[group]];
    }
    [[unroll]] for (uint j = 0u; j < LISTED; j++)
        key[j] = order_key(scores.v[index[j]]);
}

/* Chooses from the lists. `left` keys of bin `first` are wanted. */
void finish(uint lane, uint t, uint groups, uint first, uint left, uvec2 bins, uvec2 lists) {
    Floats scores = Floats(add_product(a.scores, t, a.scores_stride * 4u));
    uint total, all;
    uint before = scan(lane < groups ? SharedWords(lists).v[lane * (1u + a.share)] : 0u, total);
    if (lane < groups)
        starts[lane] = before;
    Digit second = find_bin(lane, add_bytes(bins, TOPK_BINS * 4u), left);
    uint prefix = first << 21 | second.from_top << 10, mask = 0xfffffc00u;
    left -= second.above;
    for (uint i = lane; i < 2u * TOPK_BINS / 4u; i += LANES) /* ready for the next step */
        Bins4(bins).v[i] = uvec4(0u);

    if (second.count != left) { /* else all of the second digit's keys are taken */
        for (uint i = lane; i < THIRD; i += LANES)
            third[i] = 0u;
        barrier();
        for (uint block = 0u; block < total; block += LANES * LISTED) {
            uint e = block + lane * LISTED, index[LISTED], key[LISTED];
            load_listed(e, total, groups, lists, scores, index, key);
            [[unroll]] for (uint j = 0u; j < LISTED; j++)
                if (e + j < total && (key[j] & mask) == prefix)
                    atomicAdd(third[key[j] & THIRD - 1u], 1u);
        }
        barrier();
        uint counts[EACH];
        [[unroll]] for (uint i = 0u; i < EACH; i++)
            counts[i] = lane * EACH + i < THIRD ? third[(THIRD - 1u - lane * EACH - i) & THIRD - 1u] : 0u;
        Digit last = find_digit(lane, counts, left);
        left -= last.above;
        prefix |= THIRD - 1u - last.from_top;
        mask = 0xffffffffu;
    } else {
        barrier(); /* starts */
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
    uint t = gl_WorkGroupID.y, all;
    uint visible = min((Rows(a.rows).v[t].position + 1u) / 4u, a.scores_stride);
    uint lane = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID; /* ranks follow the scan's order */
    if (gl_NumSubgroups * gl_SubgroupSize != LANES)
        lane = scan(1u, all); /* some subgroup is not full */
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
    uvec2 lists = add_product(a.list, t * a.groups, (1u + a.share) * 4u);
    Digit first = find_bin(lane, bins, a.k);
    collect(lane, t, visible, first.from_top, add_bytes(bins, TOPK_BINS * 4u),
            add_product(lists, gl_WorkGroupID.x, (1u + a.share) * 4u));
    if (last_workgroup(add_bytes(bins, 2u * TOPK_BINS * 4u), groups))
        finish(lane, t, groups, first.from_top, a.k - first.above, bins, lists);
}
