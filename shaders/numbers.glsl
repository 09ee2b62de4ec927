/* Number formats of spec section 3 in 32-bit integer arithmetic, and elementary functions that are as exact on every
 * driver as float32 allows (GLSL's own exp and log may be off by 1e-5 on some). No tables, no 8/16-bit types. */

/* ---- decoding, two values at a time through half floats ---- */

/* BF16 pair -> two floats; the low half is the even element (3.1). */
vec2 bf16_pair(uint w) { return vec2(uintBitsToFloat(w << 16), uintBitsToFloat(w & 0xffff0000u)); }

/* e4m3 bytes 1 and 3 of w, times 2^-8: the 7 low bits land on a half's exponent and mantissa, e4m3's bias is 7 and a half's
 * 15, subnormals included (3.2). Bytes 0 and 2: shift w left by 8 first. */
#define E4M3_UNIT 256.0
uint e4m3_halves(uint w) { return (w & 0x80008000u) | ((w & 0x7f007f00u) >> 1); }
vec2 e4m3_pair(uint w) { return unpackHalf2x16(e4m3_halves(w)); }

/* Four e4m3 values of a word, times 2^-8, in order. */
vec4 e4m3_word(uint w) {
    vec2 even = e4m3_pair(w << 8), odd = e4m3_pair(w);
    return vec4(even.x, odd.x, even.y, odd.y);
}

/* e2m1 nibbles 3 and 7 of w, times 2^-14 (bias 1 against 15; 3.4). Other nibbles: shift w left by 4, 8, 12 first. */
#define E2M1_UNIT 16384.0
vec2 e2m1_pair(uint w) { return unpackHalf2x16((w & 0x80008000u) | ((w >> 3) & 0x0e000e00u)); }

/* Eight e2m1 values of a word, times 2^-14: elements 0-3 and 4-7, in order (the low nibble is the even element). */
void e2m1_word(uint w, out vec4 low, out vec4 high) {
    vec2 a = e2m1_pair(w << 12), b = e2m1_pair(w << 8), c = e2m1_pair(w << 4), d = e2m1_pair(w);
    low = vec4(a.x, b.x, c.x, d.x);
    high = vec4(a.y, b.y, c.y, d.y);
}

/* ue8m0 byte -> 2^(b - 127); 0 is a float32 subnormal and may flush to zero, 255 is NaN (3.3). */
float ue8m0(uint b) { return uintBitsToFloat(b == 255u ? 0x7fc00000u : b == 0u ? 0x00400000u : b << 23); }

/* ---- encoding ---- */

/* float -> BF16 bits, nearest even (3.1); NaN stays NaN. */
uint bf16_bits(float x) {
    uint u = floatBitsToUint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (u >> 16) | 0x40u;
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

/* |x| <= 448 (clamped here) -> e4m3 code, nearest even (3.2). */
uint e4m3_bits(float x) {
    float a = min(abs(x), 448.0);
    uint u = floatBitsToUint(a), code;
    if (a < 0.015625)
        code = uint(roundEven(a * 512.0));
    else
        code = ((u + 0x7ffffu + ((u >> 20) & 1u)) >> 20) - 960u;
    return code | ((floatBitsToUint(x) >> 24) & 0x80u);
}

/* x -> e2m1 nibble, nearest even after clamping to 6 (3.4). */
uint e2m1_bits(float x) {
    float a = abs(x);
    uint code = uint(a > 0.25) + uint(a >= 0.75) + uint(a > 1.25) + uint(a >= 1.75) + uint(a > 2.5) + uint(a >= 3.5) +
                uint(a > 5.0);
    return code | ((floatBitsToUint(x) >> 28) & 8u);
}

/* Biased exponent (0..254) of 2^ceil(log2(z)) by bit inspection; z > 0 normal (3.5). */
uint pow2_ceil_exponent(float z) {
    uint u = floatBitsToUint(z);
    return (u >> 23) + uint((u & 0x7fffffu) != 0u);
}
/* The scale byte of FQ8 (blocks of 64 or 128) and FQ4 (blocks of 32) for a block's largest magnitude. The scale is 2^(b-127),
 * its inverse is exact: exp2_int(127 - b). */
uint fq8_scale(float amax) { return pow2_ceil_exponent(max(amax, 1e-4) * 0.002232142857142857); }
uint fq4_scale(float amax) { return pow2_ceil_exponent(max(amax, 7.052966104933725e-38) * 0.16666666666666666); }
/* 2^e for e in -126 .. 127. */
float exp2_int(int e) { return uintBitsToFloat(uint(e + 127) << 23); }

/* ---- functions ----
 * `precise` keeps a compiler from simplifying away what the rounding tricks live on, such as (1 + e) - 1. */

/* e^x = p * 2^e with p about 0.7 .. 1.4 returned; |x| at most 1e6. */
float exp_parts(float x, out int e) {
    precise float k = roundEven(x * 1.4426950408889634);
    precise float r = (x - k * 0.693359375) - k * -2.12194440054690583e-4; /* ln 2 in two parts: the first product is exact */
    precise float p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    p = p * (r * r) + r + 1.0;
    e = int(k);
    return p;
}

/* e^x, relative error < 2e-7 for |x| < 87; 0 below -87, +inf above 88.7. */
float exp_exact(float x) {
    if (!(x > -87.0))
        return x != x ? x : 0.0;
    if (x > 88.7)
        return uintBitsToFloat(0x7f800000u);
    int e;
    float p = exp_parts(x, e);
    return p * exp2_int(e >> 1) * exp2_int(e - (e >> 1)); /* two steps: 2^128 does not exist */
}

/* e^x * 2^-m for finite x without forming e^x, m not far below ceil(x / ln 2). Another m changes the result by exactly
 * a power of two (down to 2^-126, then 0), so partial softmax sums with different m add up without rounding twice.
 * Infinite and NaN x give NaN. */
float exp_scaled(float x, int m) {
    if ((floatBitsToUint(x) & 0x7f800000u) == 0x7f800000u)
        return uintBitsToFloat(0x7fc00000u);
    x = clamp(x, -1e6, 1e6);
    int e;
    float p = exp_parts(x, e);
    e -= m;
    return e < -126 ? 0.0 : p * exp2_int(min(e, 127));
}
/* An m for a largest x: the smallest integer with e^x * 2^-m <= 1 (of rounded quantities). */
int exp_exponent(float x) { return int(ceil(clamp(x, -1e6, 1e6) * 1.4426950408889634)); }

/* ln x for normal x > 0, absolute error < 1e-7 * max(1, |ln x|). */
float log_exact(float x) {
    uint u = floatBitsToUint(x);
    int e = int(u >> 23) - 126;
    precise float m = uintBitsToFloat((u & 0x7fffffu) | 0x3f000000u); /* [0.5, 1) */
    if (m < 0.70710678) {
        m += m;
        e -= 1;
    }
    m -= 1.0;
    precise float z = m * m, k = float(e);
    precise float p = 7.0376836292e-2;
    p = p * m - 1.1514610310e-1;
    p = p * m + 1.1676998740e-1;
    p = p * m - 1.2420140846e-1;
    p = p * m + 1.4249322787e-1;
    p = p * m - 1.6668057665e-1;
    p = p * m + 2.0000714765e-1;
    p = p * m - 2.4999993993e-1;
    p = p * m + 3.3333331174e-1;
    p = p * m * z + k * -2.12194440e-4 - 0.5 * z;
    precise float result = m + p + k * 0.693359375;
    return result;
}

float sigmoid(float x) {
    float e = exp_exact(-abs(x));
    return (x >= 0.0 ? 1.0 : e) / (1.0 + e);
}

/* ln(1 + e^x), x itself above 20 (4.10). Small e: log1p(e) = ln(u) * e / (u - 1) with u = 1 + e, Kahan's correction. */
float softplus(float x) {
    if (x > 20.0)
        return x;
    precise float e = exp_exact(x), u = 1.0 + e, d = u - 1.0;
    if (d == 0.0)
        return e;
    return log_exact(u) * (e / d);
}

bool is_finite(float x) { return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u; }
