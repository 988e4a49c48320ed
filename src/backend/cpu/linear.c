/* linear: y = x W^T on packed panels.
 *
 *   quantize x (low-bit weights only)  ─►  tiles of (96 tokens) x (a run of panels)  ─►  strips of 4 panels:
 *   a strip times all tokens of the tile, in blocks of columns that keep the operands in the caches  ─►  store */
#include <assert.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"

enum {
    COLUMN_BLOCK = 2048,     /* columns of one pass over a strip; a multiple of 256 */
    TILE_MACS = 1 << 20,     /* a tile should be worth about this many multiplications */
    TILES_PER_THREAD = 4,    /* or less, to keep the threads evenly busy */
    QUANTIZE_GRAIN = 1 << 13 /* values */
};

typedef struct linear_job {
    qr_cpu_backend *cpu;
    const float *x;
    int64_t ld_x, k, groups; /* groups per token row of act */
    int num_tokens;
    const qr_weight *const *weights;
    const float *const *biases;
    int num_weights;
    float *y;
    int64_t ld_y;
    bool accumulate;
    int64_t total_panels, panels_per_tile;
    int num_token_blocks;
} linear_job;

static void quantize_rows(void *ctx, int64_t first, int64_t end, int thread_idx)
{
    (void)thread_idx;
    linear_job *job = ctx;
    for (int64_t t = first; t < end; t++)
        job->cpu->kernels->quantize_row(job->x + t * job->ld_x, job->k, job->cpu->act + t * job->groups);
}

/* `count` panels of one weight from `first` on, times tokens [t, t + n). */
static void multiply_strip(const linear_job *job, const qr_weight *w, const float *bias, int64_t out_col, int64_t first,
                           int count, int t, int n, float *acc)
{
    const qr_cpu_kernels *kernels = job->cpu->kernels;
    const uint8_t *panel = w->panels + (size_t)first * w->panel_bytes;
    const int64_t ld_acc = (int64_t)count * QR_PANEL;
    memset(acc, 0, (size_t)n * (size_t)ld_acc * sizeof *acc);
    qr_lowbit f = qr_lowbit_format(w->dtype);
    size_t col_bytes = w->dtype == QR_F32 ? 64 : 32;
    for (int64_t k = 0; k < job->k; k += COLUMN_BLOCK) {
        int64_t cols = job->k - k < COLUMN_BLOCK ? job->k - k : COLUMN_BLOCK;
        if (f.bits)
            kernels->linear_lowbit(w->dtype, panel + (size_t)(k / qr_lowbit_unit_cols(f)) * qr_lowbit_unit_bytes(f),
                                   w->panel_bytes, count, cols, job->cpu->act + t * job->groups + k / QR_GROUP,
                                   job->groups, n, acc, ld_acc);
        else
            kernels->linear_float(w->dtype, panel + (size_t)k * col_bytes, w->panel_bytes, count, cols,
                                  job->x + t * job->ld_x + k, job->ld_x, n, acc, ld_acc);
    }
    int64_t col = first * QR_PANEL, cols = w->num_rows - col;
    if (cols > ld_acc) cols = ld_acc;
    kernels->store_rows(acc, ld_acc, bias ? bias + col : NULL, job->accumulate, n, cols,
                        job->y + t * job->ld_y + out_col + col, job->ld_y);
}

static void linear_tile(void *ctx, int tile, int thread_idx)
{
    const linear_job *job = ctx;
    int t = tile % job->num_token_blocks * QR_TOKEN_BLOCK;
    int n = job->num_tokens - t < QR_TOKEN_BLOCK ? job->num_tokens - t : QR_TOKEN_BLOCK;
    int64_t first = tile / job->num_token_blocks * job->panels_per_tile, end = first + job->panels_per_tile;
    int64_t before = 0, out_col = 0; /* panels and outputs of the weights before w */
    for (int i = 0; i < job->num_weights && before < end; i++) {
        const qr_weight *w = job->weights[i];
        int64_t p = first > before ? first - before : 0;
        int64_t stop = end - before < w->num_panels ? end - before : w->num_panels;
        for (; p < stop; p += QR_STRIP_PANELS) {
            int count = stop - p < QR_STRIP_PANELS ? (int)(stop - p) : QR_STRIP_PANELS;
            multiply_strip(job, w, job->biases ? job->biases[i] : NULL, out_col, p, count, t, n,
                           job->cpu->threads[thread_idx].acc);
        }
        before += w->num_panels;
        out_col += w->num_rows;
    }
}

/* Panels per tile: whole strips, worth TILE_MACS, but at least TILES_PER_THREAD tiles for each thread. */
static int64_t choose_panels_per_tile(const linear_job *job)
{
    int rows = job->num_tokens < QR_TOKEN_BLOCK ? job->num_tokens : QR_TOKEN_BLOCK;
    int64_t panels = TILE_MACS / (job->k * rows * QR_PANEL + 1) + 1;
    int64_t tiles = (int64_t)job->cpu->num_threads * TILES_PER_THREAD;
    int64_t fair = (job->total_panels * job->num_token_blocks + tiles - 1) / tiles;
    if (panels > fair) panels = fair;
    return (panels + QR_STRIP_PANELS - 1) / QR_STRIP_PANELS * QR_STRIP_PANELS;
}

void qr_cpu_linear(qr_backend *be, const float *x, int64_t ld_x, int num_tokens, const qr_weight *const *weights,
                   const float *const *biases, int num_weights, float *y, int64_t ld_y, bool accumulate)
{
    qr_cpu_backend *cpu = qr_cpu(be);
    if (num_tokens <= 0) return;
    linear_job job = {.cpu = cpu,
                      .x = x,
                      .ld_x = ld_x,
                      .k = weights[0]->num_cols,
                      .num_tokens = num_tokens,
                      .weights = weights,
                      .biases = biases,
                      .num_weights = num_weights,
                      .y = y,
                      .ld_y = ld_y,
                      .accumulate = accumulate};
    assert(num_tokens <= cpu->max_tokens && job.k <= cpu->max_cols); /* reserve() */
    job.groups = (job.k + QR_GROUP - 1) / QR_GROUP;
    bool lowbit = false;
    for (int i = 0; i < num_weights; i++) {
        assert(weights[i]->num_cols == job.k);
        job.total_panels += weights[i]->num_panels;
        lowbit |= qr_lowbit_format(weights[i]->dtype).bits != 0;
    }
    if (lowbit) qr_cpu_parallel(cpu, num_tokens, QUANTIZE_GRAIN / job.k + 1, quantize_rows, &job);
    job.num_token_blocks = (num_tokens + QR_TOKEN_BLOCK - 1) / QR_TOKEN_BLOCK;
    job.panels_per_tile = choose_panels_per_tile(&job);
    int64_t runs = (job.total_panels + job.panels_per_tile - 1) / job.panels_per_tile;
    qr_pool_run(be->pool, linear_tile, &job, (int)(runs * job.num_token_blocks));
}
