/* One product with a known answer, run when a model is opened (faults D14). Small FP8 and FP4 codes are decoded through half
 * denormals; a driver that flushes those would read them as zeros and nothing would look wrong. Kernels ask drivers to keep
 * them (core/device/denormals.c), but a driver may not offer that, so this looks. */
#include <string.h>

#include "engine.h"

#define SIDE 32u        /* a matrix of one tile: 32 rows of 32 inputs, two 16-byte words each */
#define CODE 0x03u      /* e4m3 subnormal: 3 * 2^-9 */
#define ANSWER (SIDE * 3.0f / 512.0f)

typedef struct question {
    uint8_t codes[SIDE * SIDE]; /* every code the same, so their order does not matter */
    float scales[4];            /* one block, two halves of the tile; padded to 16 bytes */
    float x[SIDE];
    float out[SIDE];
} question;

static dsvk_status ask(dsvk_cmd *cmd, dsvk_device *device, const dsvk_buffer *buffer, question *q, dsvk_error *err) {
    dsvk_matrix w = { .addr = buffer->addr + offsetof(question, codes), .n_out = SIDE, .n_in = SIDE, .type = DSVK_TYPE_FP8,
                      .scales = offsetof(question, scales) - offsetof(question, codes) };
    DSVK_TRY(dsvk_buffer_write(device, buffer, 0, q, sizeof *q, err));
    DSVK_TRY(dsvk_cmd_begin(cmd, err));
    dsvk_matmul(cmd, &(dsvk_matmul_params){ .w = w, .x = buffer->addr + offsetof(question, x), .n = 1, .x_stride = SIDE,
                                            .out = buffer->addr + offsetof(question, out), .out_stride = SIDE });
    DSVK_TRY(dsvk_cmd_run(cmd, err));
    return dsvk_buffer_read(device, buffer, 0, q, sizeof *q, err);
}

dsvk_status dsvk_known_answer(dsvk_device *device, dsvk_cmd *cmd, dsvk_error *err) {
    question q = { .scales = { 1, 1, 0, 0 } };
    dsvk_buffer buffer = { 0 };
    memset(q.codes, CODE, sizeof q.codes);
    for (uint32_t i = 0; i < SIDE; i++)
        q.x[i] = 1;
    DSVK_TRY(dsvk_buffer_create(device, DSVK_SCRATCH, sizeof q, "known answer", &buffer, err));
    dsvk_status status = ask(cmd, device, &buffer, &q, err);
    dsvk_buffer_destroy(device, &buffer);
    DSVK_TRY(status);
    for (uint32_t i = 0; i < SIDE; i++)
        if (q.out[i] != ANSWER)
            return dsvk_fail(err, DSVK_UNSUPPORTED, "this device computes a known product wrong: row %u gives %g, it is %g; its driver "
                             "does not decode small FP8 weights", i, (double)q.out[i], (double)ANSWER);
    return DSVK_OK;
}
