/* Arguments of shaders/bench_copy.comp. */
#ifndef DSVK_BENCH_COPY_H
#define DSVK_BENCH_COPY_H

#include "types.h"

#define DSVK_BENCH_COPY_RUN 8u /* 16-byte words per invocation */

struct bench_copy_args {
    ADDR source; /* 16-byte words [n] */
    ADDR result; /* 16-byte words [n] */
    U32 n;
};

#endif
