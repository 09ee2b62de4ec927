/* Before a token is chosen: what a caller adds to some logits, and which tokens it rules out (api 2.4, 3.3).
 *   logits[r][id] += value        for every (id, value) of the row's list, in which an id stands at most once
 *   logits[r][id] = LEAST         where bit id % 32 of word id / 32 of the row's mask is 0
 * in logits [rows, vocab], for each of n rows. LEAST is finite and never chosen by sample.comp while a token is left. A value
 * that is not finite stays: sample.comp finds it. One workgroup: EDIT_WORDS words of the mask and a share of the list (x) of one
 * row (y). An id of the list that the mask rules out is left to the mask, so nothing is written twice. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "edit_logits.h"
#include "memory.glsl"
#include "numbers.glsl"

layout(local_size_x = EDIT_WORDS) in;
layout(push_constant, scalar) uniform Args { edit_logits_args a; };

/* dsvk_edit_row and dsvk_logit_bias of ops.h and dsvk.h */
struct EditRow { uvec2 mask, list; uint n_list, row; };
struct Addend { uint id; float value; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly restrict buffer EditRows { EditRow v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly restrict buffer Addends { Addend v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) restrict buffer FloatsInOut { float v[]; };

const float LEAST = -3.4028234663852886e38;

void main() {
    const EditRow r = EditRows(a.rows).v[gl_WorkGroupID.y];
    FloatsInOut logits = FloatsInOut(add_product(a.logits, r.row, a.vocab * 4u));
    const bool masked = !is_null(r.mask);
    const uint i = gl_WorkGroupID.x * gl_WorkGroupSize.x + invocation(), stride = gl_NumWorkGroups.x * EDIT_WORDS;
    for (uint k = i; k < r.n_list; k += stride) {
        const Addend add = Addends(r.list).v[k];
        const bool allowed = !masked || (Words(r.mask).v[min(add.id, a.vocab - 1u) / 32u] >> (add.id % 32u) & 1u) != 0u;
        if (add.id < a.vocab && allowed)
            logits.v[add.id] += add.value;
    }
    if (!masked || i >= (a.vocab + 31u) / 32u)
        return;
    const uint word = Words(r.mask).v[i];
    for (uint bit = 0u; word != 0xffffffffu && bit < 32u; bit++) {
        const uint id = 32u * i + bit;
        if ((word >> bit & 1u) == 0u && id < a.vocab && is_finite(logits.v[id]))
            logits.v[id] = LEAST;
    }
}
