/* One token per row of logits [n, vocab]; options dsvk_sample_row [n]; one workgroup per row. With z = (logit - best) / temperature
 * and p = e^z the steps are, in this order:
 *   top-k   the k tokens of largest logit
 *   top-p   of those, the smallest set of the most likely whose mass reaches top_p of their mass
 *   min-p   of those, p >= min_p (the best has p = 1)
 *   choice  the first to arrive in an exponential race: largest z - ln E, E = -ln(1 - v) exponentially distributed, v a hash
 *           of (seed, position, token id). That is a draw from softmax(z) of what is left (spec 5: argmax of p / E).
 * Of equal logits the lower id ranks first, everywhere. temperature 0: the best token. Any logit that is not finite:
 * id 0xffffffff.
 *
 * "The tokens that rank first" is a cut (key, id): logits as ascending integers, radix select of 8 bits per pass over
 * histograms in shared memory, then over ids when only some of the tokens of one logit are in. Mass is counted in units
 * of 2^-31 in 64-bit integers, so the order in which invocations add does not matter and every run gives the same cut. */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "sample.h"
#include "memory.glsl"
#include "numbers.glsl"

#define WORKGROUP 256u
#define BINS 256u
#define FETCH 8u /* logits that an invocation has on their way at once when it looks for the best */
layout(local_size_x = WORKGROUP) in;
layout(push_constant, scalar) uniform Args { sample_args a; };

/* dsvk_sample_row of ops.h */
struct SampleRow { float temperature, top_p, min_p; uint top_k, seed_lo, seed_hi, position, pad; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer SampleRows { SampleRow v[]; };

shared uint mass_low[BINS], mass_high[BINS]; /* per bin: mass or number of tokens, 64 bits */
shared uint tokens[BINS];                    /* per bin: number of tokens */
shared uint token_mass[BINS];                /* last pass over keys: the mass of each token of the bin */
shared uvec2 group_mass[BINS / 16u];
shared uint found_bin;
shared uvec2 found_want;                     /* what is still to be taken inside the found bin */
shared uint best_key, best_id, not_finite;

uvec2 add64(uvec2 x, uvec2 y) {
    uint carry;
    const uint low = uaddCarry(x.x, y.x, carry);
    return uvec2(low, x.y + y.y + carry);
}
uvec2 sub64(uvec2 x, uvec2 y) {
    uint borrow;
    const uint low = usubBorrow(x.x, y.x, borrow);
    return uvec2(low, x.y - y.y - borrow);
}
bool less64(uvec2 x, uvec2 y) { return x.y < y.y || (x.y == y.y && x.x < y.x); }

/* Ascending with the value; +0 and -0 are equal. */
uint float_key(float x) {
    const uint u = x == 0.0 ? 0u : floatBitsToUint(x);
    return (u & 0x80000000u) != 0u ? ~u : u | 0x80000000u;
}
float key_float(uint key) { return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key); }

/* lowbias32 of Chris Wellons' hash-prospector. */
uint mix_bits(uint x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/* The first of the cut's tokens: larger key, or the same key and an id up to `id`. */
struct Cut { uint key, id; };
bool within(Cut cut, uint key, uint id) { return key > cut.key || (key == cut.key && id <= cut.id); }

void add_to_bin(uint bin, uint mass) {
    const uint before = atomicAdd(mass_low[bin], mass);
    if (before + mass < before)
        atomicAdd(mass_high[bin], 1u);
    atomicAdd(tokens[bin], 1u);
}

uvec2 bin_mass(uint bin) { return uvec2(mass_low[bin], mass_high[bin]); }

void sum_groups(uint lane) {
    if (lane < BINS / 16u) {
        uvec2 sum = uvec2(0u);
        [[dont_unroll]] for (uint i = 0u; i < 16u; i++)
            sum = add64(sum, bin_mass(16u * lane + i));
        group_mass[lane] = sum;
    }
}

/* Walks the bins from the top until `want` is reached; the bin and what remains to take in it go to found_bin and
 * found_want. Called by one invocation, after sum_groups. */
void find_bin(uvec2 want) {
    uint group = BINS / 16u - 1u;
    while (group > 0u && less64(group_mass[group], want))
        want = sub64(want, group_mass[group--]);
    uint bin = 16u * group + 15u;
    while (bin > 16u * group && less64(bin_mass(bin), want))
        want = sub64(want, bin_mass(bin--));
    found_bin = bin;
    found_want = want;
}

void clear_bins(uint lane) {
    mass_low[lane] = 0u;
    mass_high[lane] = 0u;
    tokens[lane] = 0u;
}

/* How many of `count` tokens of `each` mass reach `want`: ceil(want / each), at most count. */
uint tokens_reaching(uvec2 want, uint each, uint count) {
    uint taken = 0u; /* the largest number whose mass is still below `want`, bit by bit */
    [[dont_unroll]] for (int bit = 31; bit >= 0; bit--) {
        const uint more = taken | (1u << uint(bit));
        uvec2 mass;
        umulExtended(more, each, mass.y, mass.x);
        if (more < count && less64(mass, want))
            taken = more;
    }
    return taken + 1u;
}

uint token_weight(float z, bool by_mass) { return by_mass ? uint(exp_exact(z) * 2147483648.0) : 1u; }

/* The first tokens of `from` that reach `fraction` of its mass (by_mass), or the first `count`. */
Cut select_first(Floats logits, Cut from, bool by_mass, float fraction, uint count, float best, float inverse) {
    const uint lane = invocation();
    uvec2 want = uvec2(count, 0u);
    uint prefix = 0u, in_bin = 0u, each = 1u;
    [[dont_unroll]] for (int shift = 24; shift >= 0; shift -= 8) {
        clear_bins(lane);
        barrier();
        for (uint id = lane; id < a.vocab; id += WORKGROUP) {
            const float logit = logits.v[id];
            precise float z = (logit - best) * inverse;
            const uint key = float_key(logit);
            if (!within(from, key, id) || (shift < 24 && (key >> uint(shift + 8)) != prefix))
                continue;
            const uint bin = (key >> uint(shift)) & 255u, mass = token_weight(z, by_mass);
            add_to_bin(bin, mass);
            if (shift == 0)
                token_mass[bin] = mass; /* one key per bin: all write the same */
        }
        barrier();
        sum_groups(lane);
        barrier();
        if (lane == 0u) {
            if (by_mass && shift == 24) { /* floor(total * fraction), at least 1 */
                uvec2 total = uvec2(0u);
                [[dont_unroll]] for (uint group = 0u; group < BINS / 16u; group++)
                    total = add64(total, group_mass[group]);
                const uint parts = uint(min(fraction, 0.99999994) * 4294967296.0);
                uint high, unused;
                umulExtended(total.x, parts, high, unused);
                umulExtended(total.y, parts, want.y, want.x);
                want = add64(want, uvec2(high, 0u));
                want = max(want.x, want.y) == 0u ? uvec2(1u, 0u) : want;
            }
            find_bin(want);
        }
        barrier();
        want = found_want;
        prefix = (prefix << 8) | found_bin;
        in_bin = tokens[found_bin];
        each = token_mass[found_bin];
        barrier();
    }

    Cut cut = Cut(prefix, 0xffffffffu);
    const uint taken = tokens_reaching(want, each, in_bin);
    if (taken == in_bin)
        return cut.key == from.key ? from : cut;
    /* Only the `taken` lowest ids of this logit: the same walk over ids, whose bins ascend from the top. */
    want = uvec2(taken, 0u);
    uint id_prefix = 0u;
    [[dont_unroll]] for (int shift = 24; shift >= 0; shift -= 8) {
        clear_bins(lane);
        barrier();
        for (uint id = lane; id < a.vocab; id += WORKGROUP)
            if (float_key(logits.v[id]) == cut.key && within(from, cut.key, id) &&
                (shift == 24 || (id >> uint(shift + 8)) == id_prefix))
                add_to_bin(255u - ((id >> uint(shift)) & 255u), 1u);
        barrier();
        sum_groups(lane);
        barrier();
        if (lane == 0u)
            find_bin(want);
        barrier();
        want = found_want;
        id_prefix = (id_prefix << 8) | (255u - found_bin);
        barrier();
    }
    cut.id = id_prefix;
    return cut;
}

/* The invocation with the largest key, then lowest id, wins: its id in best_id, its key in best_key. */
void find_best(uint key, uint id) {
    if (invocation() == 0u) {
        best_key = 0u;
        best_id = 0xffffffffu;
    }
    barrier();
    atomicMax(best_key, key);
    barrier();
    if (key == best_key)
        atomicMin(best_id, id);
    barrier();
}

void find_most_likely(Floats logits, uint lane) {
    uint key = 0u, id = 0xffffffffu;
    bool bad = false;
    for (uint first = lane; first < a.vocab; first += WORKGROUP * FETCH) {
        float some[FETCH];
        [[unroll]] for (uint u = 0u; u < FETCH; u++) /* the last logit again beyond the end: it cannot win a second time */
            some[u] = logits.v[min(first + u * WORKGROUP, a.vocab - 1u)];
        [[unroll]] for (uint u = 0u; u < FETCH; u++) {
            const uint k = float_key(some[u]);
            bad = bad || !is_finite(some[u]);
            if (k > key) {
                key = k;
                id = min(first + u * WORKGROUP, a.vocab - 1u);
            }
        }
    }
    if (lane == 0u)
        not_finite = 0u;
    barrier();
    if (bad)
        atomicOr(not_finite, 1u);
    find_best(key, id);
}

/* -ln(1 - v) for v = (h + 1/2) / 2^32, relative precision also near 0 (Kahan's log1p). */
float exponential(uint h) {
    precise float v = min((float(h) + 0.5) * 2.3283064365386963e-10, 0.99999994), w = 1.0 - v, d = 1.0 - w;
    return d == 0.0 ? v : -log_exact(w) * (v / d);
}

void race(Floats logits, SampleRow o, Cut cut, float best, float inverse, uint lane) {
    const uint key_a = mix_bits(o.seed_lo ^ mix_bits(o.position + 0x9e3779b9u));
    const uint key_b = mix_bits(o.seed_hi ^ mix_bits(key_a + 0x85ebca6bu));
    const float least = min(o.min_p, 1.0);
    uint most = 0u, id = 0xffffffffu;
    for (uint i = lane; i < a.vocab; i += WORKGROUP) {
        const float logit = logits.v[i];
        precise float z = (logit - best) * inverse;
        if (!within(cut, float_key(logit), i) || exp_exact(z) < least)
            continue;
        const uint key = float_key(z - log_exact(exponential(mix_bits(mix_bits(i ^ key_a) + key_b))));
        if (key > most) {
            most = key;
            id = i;
        }
    }
    find_best(most, id);
}

void main() {
    const uint row = gl_WorkGroupID.x, lane = invocation();
    Floats logits = Floats(add_product(a.logits, row, a.vocab * 4u));
    const SampleRow o = SampleRows(a.options).v[row];
    find_most_likely(logits, lane);
    if (not_finite == 0u && o.temperature > 0.0) {
        const float best = key_float(best_key), inverse = min(1.0 / o.temperature, 1e38);
        barrier(); /* best_key is read by all before it is used again */
        Cut cut = Cut(0u, 0xffffffffu);
        if (o.top_k > 0u && o.top_k < a.vocab)
            cut = select_first(logits, cut, false, 0.0, o.top_k, best, inverse);
        if (o.top_p > 0.0 && o.top_p < 1.0)
            cut = select_first(logits, cut, true, o.top_p, 0u, best, inverse);
        race(logits, o, cut, best, inverse, lane);
    }
    if (lane == 0u)
        WordsOut(a.result).v[row] = not_finite != 0u ? 0xffffffffu : best_id;
}
