/* Scores in the order of top-k (spec 4.7) as unsigned integers: larger score, larger key; NaN 0; -0 is 0. */
uint order_key(float score) {
    uint u = floatBitsToUint(score);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0u;
    if (u == 0x80000000u)
        u = 0u;
    return (u & 0x80000000u) != 0u ? ~u : u | 0x80000000u;
}
