/* Device memory through addresses. A kernel's pointers arrive as uvec2 push constants; add_bytes() and add_words16() do the
 * 64-bit sums in 32-bit arithmetic, so no shaderInt64 is needed. Reads that many invocations make of one address go
 * through the `readonly restrict` types. */
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_scalar_block_layout : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#include "device_constants.h"

/* A software driver: code for every lane of every access to shared memory, and barriers that split a kernel into pieces, so loops
 * are left rolled which a GPU wants unrolled, to have its loads on their way together. Set for every kernel by pipelines.c. */
layout(constant_id = SOFTWARE_CONSTANT) const bool SOFTWARE = false;
/* An invocation has 128 registers, not 256: what is on its way together has to be less. */
layout(constant_id = FEW_REGISTERS_CONSTANT) const bool FEW_REGISTERS = false;

/* The invocation's number in its workgroup; subgroups are runs of it. lavapipe divides, lane by lane, to make gl_LocalInvocationIndex
 * out of what it counts, and again at every use in a loop. */
uint invocation() { return SOFTWARE ? gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID : gl_LocalInvocationIndex; }

layout(buffer_reference, scalar, buffer_reference_align = 4) readonly restrict buffer Floats { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Vec4s { vec4 v[]; };
/* Runs of 2, 4 or 8 of them: v[i].q[j] with a constant j is one address for the whole run, which v[8 * i + j] is not, as
 * the sum could wrap. */
struct Vec4x2 { vec4 q[2]; };
struct Vec4x4 { vec4 q[4]; };
struct Vec4x8 { vec4 q[8]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Vec4x2s { Vec4x2 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Vec4x4s { Vec4x4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Vec4x8s { Vec4x8 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) readonly restrict buffer Words { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Words4 { uvec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly restrict buffer Addrs { uvec2 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) writeonly restrict buffer FloatsOut { float v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) writeonly restrict buffer Vec4sOut { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) writeonly restrict buffer WordsOut { uint v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 16) restrict buffer Vec4sInOut { vec4 v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 4) restrict buffer WordsInOut { uint v[]; };

struct Row { uint token, position, sequence, first; };
struct Seq { uvec2 state, pages; uint first, rows, start, pad; };
layout(buffer_reference, scalar, buffer_reference_align = 16) readonly restrict buffer Rows { Row v[]; };
layout(buffer_reference, scalar, buffer_reference_align = 8) readonly restrict buffer Seqs { Seq v[]; };

uvec2 add_bytes(uvec2 address, uint bytes) {
    uint carry;
    uint low = uaddCarry(address.x, bytes, carry);
    return uvec2(low, address.y + carry);
}

/* address + count * bytes, the product in 64 bits */
uvec2 add_product(uvec2 address, uint count, uint bytes) {
    uint high, low, carry;
    umulExtended(count, bytes, high, low);
    low = uaddCarry(address.x, low, carry);
    return uvec2(low, address.y + high + carry);
}

/* The end of the rows from t + first on, of the n behind t, that are of one sequence. Loops over such rows test at their end: a
 * software driver goes through a loop's body once more for no invocation, and reads there what all of them would. */
uint sequence_end(Rows rows, uint t, uint first, uint n) {
    const uint sequence = rows.v[t + first].sequence;
    uint last = first + 1u;
    while (last < n && rows.v[t + last].sequence == sequence)
        last++;
    return last;
}

bool is_null(uvec2 address) { return (address.x | address.y) == 0u; }
