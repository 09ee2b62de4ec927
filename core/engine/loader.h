/* Weights from files to the device. */
#ifndef DSVK_LOADER_H
#define DSVK_LOADER_H

#include "weights.h"

typedef struct dsvk_load_options {
    uint32_t threads; /* readers, at least 1 */
    bool verify;      /* NaN or infinity in a weight or scale is FORMAT naming tensor and index (M15) */
    dsvk_progress_fn progress;
    void *user;
} dsvk_load_options;

/* Creates buffers [list->n_buffers] (zeroed by the caller; on failure the caller destroys them), reads every weight into
 * them and fills the addresses in `weights`. Host memory held: a few MB per reader. checkpoint: NULL when the bytes of
 * every source are in memory. */
dsvk_status dsvk_load_weights(dsvk_device *device, dsvk_weight_list *list, dsvk_weights *weights, const dsvk_config *config,
                              const dsvk_checkpoint *checkpoint, dsvk_buffer *buffers, const dsvk_load_options *options,
                              dsvk_error *err);

/* First NaN or infinity in `n` elements of a tensor's raw bytes; -1: none. FP4 and integers have none. */
int64_t dsvk_find_non_finite(dsvk_dtype dtype, const void *data, uint64_t n);

/* Number formats (spec 3). */
float dsvk_bf16_value(uint16_t v);
float dsvk_e4m3_value(uint8_t v);
float dsvk_e2m1_value(uint8_t nibble);
float dsvk_ue8m0_value(uint8_t v);

#endif
