/* Which kernel multiplies a step of many rows, and in which tiles: what the device's variant (device.h) means for one
 * dispatch. Weights are read, and decoded, once for all rows of a workgroup. */
#include "matmul_rows.h"

/* Beyond, sums no longer gain from sharing a decoded weight (measured on lavapipe 26.1). */
#define REGISTER_ROWS 32u
#define REGISTER_ROWS_BF16 16u
#define STAGED_ROWS 64u
#define STAGED_LEAST 16u    /* a row of x per invocation */

/* Smallest and largest tile of pairs of the kernels for n rows; all are powers of two. */
static void tile_range(const dsvk_device *device, uint32_t n, uint32_t *least, uint32_t *most) {
    const uint32_t kind = dsvk_device_matmul(device).kind;
    const bool few = n < DSVK_CHUNK || kind == DSVK_MATMUL_FEW, registers = kind == DSVK_MATMUL_REGISTERS || kind == DSVK_MATMUL_COLUMNS;
    *least = few ? 1 : registers ? DSVK_MOE_LEAST_TILE : STAGED_LEAST;
    *most = few ? dsvk_matmul_rows(device, 8) : registers ? REGISTER_ROWS : STAGED_ROWS;
}

/* For few rows 1, 4 or 8. For many about as many pairs as an expert gets: fewer tiles read its weights less often, larger
 * ones compute more places that no pair fills. */
uint32_t dsvk_moe_tile(const dsvk_device *device, uint32_t n, uint32_t k, uint32_t n_experts) {
    const uint32_t pairs = (uint32_t)dsvk_ceil_div((uint64_t)n * k, n_experts);
    uint32_t tile, most;
    tile_range(device, n, &tile, &most);
    if (tile == 1)
        return n <= 1 ? 1 : n < 128 ? DSVK_MOE_LEAST_TILE : most;
    while (tile < pairs && tile < most)
        tile *= 2;
    return tile;
}

bool dsvk_moe_tile_fits(const dsvk_device *device, uint32_t n, uint32_t tile) {
    uint32_t least, most;
    tile_range(device, n, &least, &most);
    return tile >= least && tile <= most && (tile & (tile - 1)) == 0 && !(least == 1 && tile == 2);
}

static void choose_tiled(dsvk_cmd *cmd, dsvk_kernel *kernel, bool registers, dsvk_weight_type type, uint32_t rows, uint32_t tiles) {
    const uint32_t most = type == DSVK_TYPE_BF16 ? REGISTER_ROWS_BF16 : REGISTER_ROWS;
    kernel->matmul = "matmul_tiled";
    kernel->moe_expert = "moe_expert_tiled";
    kernel->n_constants = CHUNK_TILED_CONSTANTS;
    kernel->rows = rows ? rows : registers ? most : STAGED_ROWS;
    kernel->tiles = registers || kernel->rows == STAGED_LEAST || tiles % 2 ? 1 : 2;
    kernel->constants[CHUNK_WORKGROUP] = registers ? 8 : 128 * kernel->tiles;
    kernel->constants[CHUNK_STAGED] = !registers;
    kernel->constants[CHUNK_SUBGROUP_8] = dsvk_matmul_subgroup_8(cmd);
}

static void choose_coopmat(dsvk_cmd *cmd, dsvk_kernel *kernel, dsvk_matmul_variant variant, uint32_t rows, uint32_t tiles) {
    kernel->matmul = "matmul_coopmat";
    kernel->moe_expert = "moe_expert_coopmat";
    kernel->n_constants = CHUNK_COOPMAT_CONSTANTS;
    kernel->subgroup = dsvk_matmul_subgroup(dsvk_cmd_device(cmd));
    kernel->tiles = tiles % 2 ? 1 : 2;
    kernel->rows = STAGED_ROWS;
    if (kernel->tiles == 1 && dsvk_device_get_limits(dsvk_cmd_device(cmd))->few_registers)
        kernel->rows /= 2;
    if (rows)
        kernel->rows = rows;
    kernel->constants[CHUNK_WORKGROUP] = 128 * kernel->tiles;
    kernel->constants[CHUNK_M] = variant.m;
    kernel->constants[CHUNK_N] = variant.n;
    kernel->constants[CHUNK_K] = variant.k;
    kernel->constants[CHUNK_SUBGROUP] = kernel->subgroup;
}

bool dsvk_chunk_kernel(dsvk_cmd *cmd, const dsvk_matmul_variant *way, const dsvk_matrix *w, uint32_t n, uint32_t rows,
                       uint32_t tiles, uint32_t epilogue, dsvk_kernel *kernel) {
    const dsvk_matmul_variant variant = way ? *way : dsvk_device_matmul(dsvk_cmd_device(cmd));
    if (n < DSVK_CHUNK || variant.kind == DSVK_MATMUL_FEW)
        return false;
    *kernel = (dsvk_kernel){ 0 };
    if (w->columns) {
        choose_tiled(cmd, kernel, true, w->type, rows, tiles);
        kernel->constants[CHUNK_COLUMNS] = 1;
    } else if (variant.kind == DSVK_MATMUL_COOPMAT && w->type != DSVK_TYPE_F32) { /* a half is too small a part of a float32 weight */
        choose_coopmat(cmd, kernel, variant, rows, tiles);
    } else {
        choose_tiled(cmd, kernel, variant.kind == DSVK_MATMUL_REGISTERS, w->type, rows, tiles);
    }
    kernel->constants[CHUNK_TYPE] = w->type;
    kernel->constants[CHUNK_EPILOGUE] = epilogue;
    kernel->constants[CHUNK_ROWS] = kernel->rows;
    kernel->constants[CHUNK_TILES] = kernel->tiles;
    return true;
}
