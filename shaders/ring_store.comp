/* Spec 4.12, step 5: rows of a step into rings of their sequence's state block. Workgroup (t, i) copies row t of item i. */
#version 460
#extension GL_GOOGLE_include_directive : require
#define WORKGROUP 128u
layout(local_size_x = 128) in;
#include "memory.glsl"
#include "ring_store.h"
#include "ring_store.glsl"

layout(push_constant, scalar) uniform Args { ring_store_args a; };

void main() { ring_store_row(gl_WorkGroupID.x, a.rows, a.seqs, a.items[gl_WorkGroupID.y]); }
