/* What changes a sequence's logits before its next token is chosen: penalties and biases, added up in one list, and the mask that the
 * caller gives. Kept with the session, on the host; the step that chooses copies it to where the device reads it. */
#ifndef DSVK_LOGIT_EDIT_H
#define DSVK_LOGIT_EDIT_H

#include "dsvk.h"

#include <stdbool.h>

typedef struct dsvk_edit_entry {
    int32_t id;
    float bias;
    uint32_t count;          /* times it was generated */
} dsvk_edit_entry;

typedef struct dsvk_logit_edit {
    bool on;                 /* the next token is chosen from changed logits */
    bool asleep;             /* there is a mask, whose mask_after has not come */
    uint64_t seen;           /* tokens of the timeline that have been looked at */
    uint64_t masked;         /* length of the timeline that `words` are for; UINT64_MAX: none */
    uint32_t *words;         /* [n_words], made when first needed */
    dsvk_edit_entry *entries; /* [n], ascending ids */
    uint32_t n, capacity;
} dsvk_logit_edit;

#endif
