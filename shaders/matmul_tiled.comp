/* matmul for steps of many rows on any device: chunk_tiled.glsl. */
#version 460
#extension GL_GOOGLE_include_directive : require
#include "matmul.h"
#include "chunk.h"
#include "memory.glsl"
#include "numbers.glsl"
#include "chunk.glsl"
#include "chunk_tiled.glsl"
#include "matmul_chunk.glsl"
