/* linear: y = x W^T on packed panels.
 *
 *   quantize x (low-bit weights only)  ─►  tiles of (96 tokens) x (a run of panels)  ─►  for each block of
 *   1024 columns or more, for each strip of 4 panels: the strip times the tile's tokens, into accumulators  ─►  store
 */
#include <assert.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"

enum {
    COLUMN_BLOCK = 1024,     /* a multiple of 256 */
    BLOCK_VALUES = 1 << 16,  /* few tokens: longer blocks, of about this many activations */
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

/* A run of panels of one weight, at most QR_RUN_PANELS. */
typedef struct panel_run {
    const qr_weight *w;
    const float *bias;
    int64_t first, out_col; /* first panel; first output of the weight */
    int count;
} panel_run;

/* Columns [k, k + cols) of a strip of `count` panels from `first` on, times tokens [t, t + n), added to acc. */
static void multiply_strip(const linear_job *job, const qr_weight *w, int64_t first, int count, int64_t k, int64_t cols,
                           int t, int n, float *acc)
{
    const qr_cpu_kernels *kernels = job->cpu->kernels;
    const uint8_t *panel = w->panels + (size_t)first * w->panel_bytes;
    const int64_t ld_acc = QR_STRIP_PANELS * QR_PANEL;
    qr_lowbit f = qr_lowbit_format(w->dtype);
    if (f.bits)
        kernels->linear_lowbit(w->dtype, panel + (size_t)(k / qr_lowbit_unit_cols(f)) * qr_lowbit_unit_bytes(f),
                               w->panel_bytes, count, cols, job->cpu->act + t * job->groups + k / QR_GROUP, job->groups,
                               n, acc, ld_acc);
    else
        kernels->linear_float(w->dtype, panel + (size_t)k * 2 * (w->dtype == QR_F32 ? 64 : 32), w->panel_bytes, count,
                              cols, job->x + t * job->ld_x + k, job->ld_x, n, acc, ld_acc);
}

/* Blocks of columns outside, strips inside: the block's activations stay in the second-level cache, a strip's weights
 * in the first. */
static void multiply_run(const linear_job *job, const panel_run *run, int t, int n, float *acc)
{
    const int64_t strip_acc = (int64_t)QR_TOKEN_BLOCK * QR_STRIP_PANELS * QR_PANEL;
    const int64_t ld_acc = QR_STRIP_PANELS * QR_PANEL;
    int num_strips = (run->count + QR_STRIP_PANELS - 1) / QR_STRIP_PANELS;
    for (int s = 0; s < num_strips; s++) memset(acc + s * strip_acc, 0, (size_t)(n * ld_acc) * sizeof *acc);
    int64_t block = BLOCK_VALUES / n / COLUMN_BLOCK * COLUMN_BLOCK;
    if (block < COLUMN_BLOCK) block = COLUMN_BLOCK;
    for (int64_t k = 0; k < job->k; k += block) {
        int64_t cols = job->k - k < block ? job->k - k : block;
        for (int s = 0; s < num_strips; s++) {
            int p = s * QR_STRIP_PANELS, left = run->count - p;
            multiply_strip(job, run->w, run->first + p, left < QR_STRIP_PANELS ? left : QR_STRIP_PANELS, k, cols, t, n,
                           acc + s * strip_acc);
        }
    }
    for (int s = 0; s < num_strips; s++) {
        int64_t col = (run->first + s * QR_STRIP_PANELS) * QR_PANEL, cols = run->w->num_rows - col;
        int64_t end = (run->first + run->count) * QR_PANEL;
        if (cols > end - col) cols = end - col;
        if (cols > ld_acc) cols = ld_acc;
        job->cpu->kernels->store_rows(acc + s * strip_acc, ld_acc, run->bias ? run->bias + col : NULL, job->accumulate,
                                      n, cols, job->y + t * job->ld_y + run->out_col + col, job->ld_y);
    }
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
        for (; p < stop; p += QR_RUN_PANELS) {
            panel_run run = {w, job->biases ? job->biases[i] : NULL, p, out_col, QR_RUN_PANELS};
            if (stop - p < QR_RUN_PANELS) run.count = (int)(stop - p);
            multiply_run(job, &run, t, n, job->cpu->threads[thread_idx].acc);
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
