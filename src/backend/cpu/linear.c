/* linear: y = x W^T on packed panels.
 *
 *   quantize x (low-bit weights only)  ─►  tiles of (96 tokens) x (a run of panels)  ─►  for each block of
 *   1024 columns or more, for each strip of panels: the strip times the tile's tokens, into accumulators  ─►  store
 */
#include <assert.h>

#include "backend/cpu/cpu_backend.h"

enum {
    COLUMN_BLOCK = 1024,     /* a multiple of 256 */
    BLOCK_VALUES = 1 << 16,  /* few tokens: longer blocks, of about this many activations */
    TILE_MACS = 1 << 20,     /* a tile should be worth about this many multiplications */
    TILES_PER_THREAD = 2,    /* or less, to keep the threads evenly busy */
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
    int64_t total_panels, num_runs; /* a tile: a run of panels, a block of tokens */
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

/* Columns [k, k + cols) of `count` panels from `first` on, times tokens [t, t + n), into acc or (k > 0) added to it. */
static void multiply_strip(const linear_job *job, const qr_weight *w, int64_t first, int count, int64_t k, int64_t cols,
                           int t, int n, float *acc, int64_t ld_acc)
{
    const qr_cpu_kernels *kernels = job->cpu->kernels;
    const uint8_t *panel = w->panels + (size_t)first * w->panel_bytes;
    qr_lowbit f = qr_lowbit_format(w->dtype);
    if (f.bits)
        kernels->linear_lowbit(w->dtype, panel + (size_t)(k / qr_lowbit_unit_cols(f)) * qr_lowbit_unit_bytes(f),
                               w->panel_bytes, count, cols, job->cpu->act + t * job->groups + k / QR_GROUP, job->groups,
                               n, k > 0, acc, ld_acc);
    else
        kernels->linear_float(w->dtype, panel + (size_t)k * 2 * (w->dtype == QR_F32 ? 64 : 32), w->panel_bytes, count,
                              cols, job->x + t * job->ld_x + k, job->ld_x, n, k > 0, acc, ld_acc);
}

/* Blocks of columns outside, strips inside: the block's activations stay in the second-level cache, a strip's weights
 * in the first. Outputs that nothing is added to are accumulated where they belong; else a strip is stored as soon as
 * it is done. */
static void multiply_run(const linear_job *job, const panel_run *run, int t, int n, float *scratch)
{
    const int64_t end = (run->first + run->count) * QR_PANEL;
    const bool direct = !run->bias && !job->accumulate && end <= run->w->num_rows;
    float *y = job->y + t * job->ld_y + run->out_col;
    const int strip = QR_TOKEN_BLOCK / n * QR_STRIP_PANELS;
    int64_t block = BLOCK_VALUES / n / COLUMN_BLOCK * COLUMN_BLOCK;
    if (block < COLUMN_BLOCK) block = COLUMN_BLOCK;
    for (int64_t k = 0; k < job->k; k += block) {
        const int64_t cols = job->k - k < block ? job->k - k : block;
        for (int p = 0; p < run->count; p += strip) {
            const int count = run->count - p < strip ? run->count - p : strip;
            const int64_t col = (run->first + p) * QR_PANEL;
            const int64_t ld_acc = direct ? job->ld_y : count * QR_PANEL;
            float *acc = direct ? y + col : scratch + (cols == job->k ? 0 : p * QR_PANEL * n);
            multiply_strip(job, run->w, run->first + p, count, k, cols, t, n, acc, ld_acc);
            if (direct || k + cols < job->k) continue;
            const int64_t num = run->w->num_rows - col < ld_acc ? run->w->num_rows - col : ld_acc;
            job->cpu->kernels->store_rows(acc, ld_acc, run->bias ? run->bias + col : NULL, job->accumulate, n, num,
                                          y + col, job->ld_y);
        }
    }
}

/* First panel of a tile; tile num_runs is the end. The first tiles have a pair of panels more when it does not come out
 * even. */
static int64_t first_panel(const linear_job *job, int64_t run)
{
    const int64_t pairs = job->total_panels / 2, more = pairs % job->num_runs;
    return 2 * (pairs / job->num_runs * run + (run < more ? run : more));
}

static void linear_tile(void *ctx, int tile, int thread_idx)
{
    const linear_job *job = ctx;
    int t = tile % job->num_token_blocks * QR_TOKEN_BLOCK, run_idx = tile / job->num_token_blocks;
    int n = job->num_tokens - t < QR_TOKEN_BLOCK ? job->num_tokens - t : QR_TOKEN_BLOCK;
    int64_t first = first_panel(job, run_idx), end = first_panel(job, run_idx + 1);
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

/* Runs of panels, so that a tile is worth TILE_MACS, but at least TILES_PER_THREAD tiles for each thread, and the same
 * number for all. */
static int64_t choose_num_runs(const linear_job *job)
{
    int64_t rows = job->num_tokens < QR_TOKEN_BLOCK ? job->num_tokens : QR_TOKEN_BLOCK;
    int64_t runs = job->total_panels * QR_PANEL * rows * job->k / TILE_MACS, threads = job->cpu->num_threads;
    int64_t fair = (threads * TILES_PER_THREAD + job->num_token_blocks - 1) / job->num_token_blocks;
    if (runs < fair) runs = fair;
    runs = (runs + threads - 1) / threads * threads;
    return runs < job->total_panels / 2 ? runs : job->total_panels / 2;
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
    job.num_runs = choose_num_runs(&job);
    qr_pool_run(be->pool, linear_tile, &job, (int)job.num_runs * job.num_token_blocks);
}
