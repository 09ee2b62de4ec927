/* Draws one frame: pixel (x, y) of image [SIDE, SIDE] r32ui. Integers only, so that every driver draws the same picture. */
#version 450
layout(local_size_x = 8, local_size_y = 8) in;
layout(binding = 0, r32ui) uniform writeonly uimage2D image;
layout(push_constant) uniform arguments { uint frame; };

void main() {
    const ivec2 at = ivec2(gl_GlobalInvocationID.xy);
    uint z = uint(at.x * at.x + at.y * at.y) * (frame + 1u) + uint(at.x * 31 + at.y * 17) * frame;
    z ^= z >> 7;
    imageStore(image, at, uvec4(0xff000000u | (z & 0xffffffu)));
}
