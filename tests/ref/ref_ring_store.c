/* Rings of spec 4.12, step 5: every row in turn, later ones overwriting earlier ones. */
#include "ref.h"

#include <string.h>

void ref_ring_store(const uint8_t *source, uint32_t stride, uint32_t bytes, uint8_t *ring, uint32_t capacity,
                    uint32_t first, uint32_t rows, uint32_t start) {
    for (uint32_t i = 0; i < rows; i++)
        memcpy(ring + (size_t)((start + i) % capacity) * bytes, source + (size_t)(first + i) * stride, bytes);
}
