/* What the ops that write cache rows and index keys demand of their format. */
#ifndef DSVK_ROW_FORMAT_H
#define DSVK_ROW_FORMAT_H

#include "ops.h"

/* False, and the recording fails, when the widths of rows do not fit the kernels (`op` begins the sentence). */
bool dsvk_row_format_check(dsvk_cmd *cmd, const char *op, const dsvk_row_format *f);
/* The same for index keys and queries. */
bool dsvk_key_format_check(dsvk_cmd *cmd, const char *op, const dsvk_row_format *f);

#endif
