/* Number formats of spec section 3, by arithmetic rather than by bits where that is possible. */
#include "ref.h"

#include <math.h>
#include <string.h>

float ref_bf16(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

uint16_t ref_bf16_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    if (isnan(x))
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

float ref_e4m3(uint8_t code) {
    int e = (code >> 3) & 15, m = code & 7;
    if ((code & 0x7f) == 0x7f)
        return NAN;
    float a = e == 0 ? ldexpf((float)m, -9) : ldexpf(1.0f + (float)m / 8.0f, e - 7);
    return code & 0x80 ? -a : a;
}

/* The code whose value is nearest; of two equally near ones the even code. Codes 0 .. 126 ascend in value. */
uint8_t ref_e4m3_bits(float x) {
    float a = fminf(fabsf(x), 448.0f);
    uint8_t best = 0;
    for (int c = 1; c < 127; c++) {
        float d = fabsf(ref_e4m3((uint8_t)c) - a), b = fabsf(ref_e4m3(best) - a);
        if (d < b || (d == b && c % 2 == 0))
            best = (uint8_t)c;
    }
    return signbit(x) ? best | 0x80 : best;
}

float ref_e2m1(uint8_t nibble) {
    static const float values[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    return nibble & 8 ? -values[nibble & 7] : values[nibble & 7];
}

uint8_t ref_e2m1_bits(float x) {
    float a = fminf(fabsf(x), 6.0f);
    uint8_t best = 0;
    for (int c = 1; c < 8; c++) {
        float d = fabsf(ref_e2m1((uint8_t)c) - a), b = fabsf(ref_e2m1(best) - a);
        if (d < b || (d == b && c % 2 == 0))
            best = (uint8_t)c;
    }
    return signbit(x) ? best | 8 : best;
}

float ref_ue8m0(uint8_t byte) { return byte == 255 ? NAN : ldexpf(1.0f, byte - 127); }
