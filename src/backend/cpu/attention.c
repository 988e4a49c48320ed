/* Paged attention: work items of up to 32 (token, head) rows of one request and KV head.
 *
 *   item ─► segments of 512 positions ─► tiles of 128 ─► attend kernel, merged in order (backend.h)
 *
 * With fewer items than keep all threads busy, each segment becomes an item of its own whose part is kept in scratch;
 * a second loop merges the parts in the same order: the same bits. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"

enum { ITEMS_PER_THREAD = 4 };

typedef struct attend_job {
    qr_cpu_backend *cpu;
    const qr_batch *batch;
    const qr_attention_args *args;
    int group;  /* query heads per KV head */
    bool split; /* an item is one segment */
    int max_segments;
    qr_attend_part parts; /* split: [item of rows][segment][row] */
} attend_job;

/* Rows of one request and KV head. */
typedef struct row_block {
    int req, kv_head, first_row, num_rows; /* row = token of the request * group + head of the group */
    int first_token;                       /* flat row of the request's first token */
    int first_position;                    /* of that token */
} row_block;

static int row_position(const attend_job *job, const row_block *b, int r)
{
    return b->first_position + (b->first_row + r) / job->group;
}

static int64_t row_head(const attend_job *job, const row_block *b, int r)
{
    return (int64_t)b->kv_head * job->group + (b->first_row + r) % job->group;
}

static int row_token(const attend_job *job, const row_block *b, int r)
{
    return b->first_token + (b->first_row + r) / job->group;
}

static int blocks_of_request(const attend_job *job, int req)
{
    int tokens = job->batch->query_start_loc[req + 1] - job->batch->query_start_loc[req];
    return (tokens * job->group + QR_ATTEND_ROWS - 1) / QR_ATTEND_ROWS;
}

/* Item index to rows. Late rows first: they are the longest, and a long item at the end would leave threads idle. */
static row_block find_rows(const attend_job *job, int item)
{
    const int32_t *start = job->cpu->item_start;
    int low = 0, high = job->batch->num_reqs;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (start[middle] <= item)
            low = middle;
        else
            high = middle;
    }
    int blocks = blocks_of_request(job, low), in_req = item - start[low];
    int tokens = job->batch->query_start_loc[low + 1] - job->batch->query_start_loc[low];
    row_block b = {.req = low, .kv_head = in_req / blocks};
    b.first_row = (blocks - 1 - in_req % blocks) * QR_ATTEND_ROWS;
    b.num_rows = tokens * job->group - b.first_row;
    if (b.num_rows > QR_ATTEND_ROWS) b.num_rows = QR_ATTEND_ROWS;
    b.first_token = job->batch->query_start_loc[low];
    b.first_position = job->batch->seq_lens[low] - tokens;
    return b;
}

/* Visible positions of row r: [first, end) */
static int row_end(const attend_job *job, const row_block *b, int r) { return row_position(job, b, r) + 1; }
static int row_first(const attend_job *job, const row_block *b, int r)
{
    int first = job->args->window > 0 ? row_end(job, b, r) - job->args->window : 0;
    return first > 0 ? first : 0;
}

/* Where the tile at position `at` lies, to be fetched while the one before it is worked on. */
static void set_up_next(const attend_job *job, const row_block *b, int at, qr_attend_tile *t)
{
    const qr_kv_cache *c = job->args->cache;
    const int32_t *table = job->batch->block_table + (int64_t)b->req * job->batch->max_blocks;
    int bs = c->config.block_size, end = row_end(job, b, b->num_rows - 1);
    for (int i = 0; i < QR_ATTEND_TILE / bs; i++) {
        bool there = at + i * bs < end; /* else fetch again what is being read: nothing to wait for */
        t->next_k[i] = there ? qr_kv_k(c, job->args->layer, table[at / bs + i], b->kv_head) : t->k[i];
        t->next_v[i] = there ? qr_kv_v(c, job->args->layer, table[at / bs + i], b->kv_head) : t->v[i];
    }
}

/* Nothing was fetched for the first tile of an item: ask for all of it at once. */
static void fetch_tile(const attend_job *job, const qr_attend_tile *t)
{
    const qr_kv_cache *c = job->args->cache;
    for (int i = 0; i < QR_ATTEND_TILE / t->block_size; i++) {
        job->cpu->kernels->fetch_block(t->k[i], (int)c->head_k_bytes);
        job->cpu->kernels->fetch_block(t->v[i], (int)c->head_v_bytes);
    }
}

/* Positions [at, at + 128) into t. False when no row sees any of them. */
static bool set_up_tile(const attend_job *job, const row_block *b, int at, qr_attend_tile *t)
{
    const qr_kv_cache *c = job->args->cache;
    int begin = QR_ATTEND_TILE, end = 0;
    for (int r = 0; r < b->num_rows; r++) {
        int first = row_first(job, b, r) - at, stop = row_end(job, b, r) - at;
        if (first < 0) first = 0;
        if (stop > QR_ATTEND_TILE) stop = QR_ATTEND_TILE;
        bool sees = first < stop;
        t->first[r] = sees ? first : 0;
        t->end[r] = sees ? stop : 0;
        if (sees && first < begin) begin = first;
        if (sees && stop > end) end = stop;
    }
    if (begin >= end) return false;
    const int32_t *table = job->batch->block_table + (int64_t)b->req * job->batch->max_blocks;
    int bs = c->config.block_size;
    for (int i = 0; i < QR_ATTEND_TILE / bs; i++) {
        /* a block that nobody sees may have no id: a visible one stands in, computed and never used */
        bool seen = i * bs < end && (i + 1) * bs > begin;
        int64_t id = table[at / bs + (seen ? i : begin / bs)];
        t->k[i] = qr_kv_k(c, job->args->layer, id, b->kv_head);
        t->v[i] = qr_kv_v(c, job->args->layer, id, b->kv_head);
    }
    set_up_next(job, b, at + QR_ATTEND_TILE, t);
    return true;
}

static void start_tile(const attend_job *job, const row_block *b, qr_thread_scratch *scratch, qr_attend_tile *t)
{
    const qr_attention_args *a = job->args;
    const qr_kv_cache *c = a->cache;
    t->dtype = c->config.dtype;
    t->block_size = c->config.block_size;
    t->head_size = a->head_size;
    t->padded = c->padded;
    t->scale = a->scale;
    t->num_rows = b->num_rows;
    t->scores = scratch->scores;
    t->out = scratch->out[0];
    for (int r = 0; r < b->num_rows; r++)
        t->q[r] = a->q + row_token(job, b, r) * a->ld_q + row_head(job, b, r) * a->head_size;
}

static void clear_part(qr_attend_part part)
{
    for (int r = 0; r < QR_ATTEND_ROWS; r++) {
        part.m[r] = -INFINITY;
        part.l[r] = 0.0f;
    }
}

/* One segment of 512 positions into `part`, tile by tile. fetched: the segment before it was worked on just now. */
static void attend_segment(const attend_job *job, const row_block *b, int segment, bool fetched, qr_attend_tile *t,
                           qr_attend_part part)
{
    clear_part(part);
    int at = segment * QR_ATTEND_SEGMENT, stop = at + QR_ATTEND_SEGMENT;
    int end = row_end(job, b, b->num_rows - 1), first = row_first(job, b, 0);
    if (stop > end) stop = end;
    if (at < first) at = first / QR_ATTEND_TILE * QR_ATTEND_TILE;
    for (; at < stop; at += QR_ATTEND_TILE) {
        if (!set_up_tile(job, b, at, t)) continue;
        if (!fetched) fetch_tile(job, t);
        fetched = true;
        job->cpu->kernels->attend(t);
        qr_attend_part later = {t->max, t->sum, t->out};
        job->cpu->kernels->merge(&part, &later, b->num_rows, t->padded);
    }
}

static int num_segments(const attend_job *job, const row_block *b)
{
    return (row_end(job, b, b->num_rows - 1) + QR_ATTEND_SEGMENT - 1) / QR_ATTEND_SEGMENT;
}

static int first_segment(const attend_job *job, const row_block *b) { return row_first(job, b, 0) / QR_ATTEND_SEGMENT; }

static void write_out(const attend_job *job, const row_block *b, qr_attend_part part, int padded)
{
    const qr_attention_args *a = job->args;
    for (int r = 0; r < b->num_rows; r++) {
        float *row = part.o + (int64_t)r * padded;
        job->cpu->kernels->scale_row(row, a->head_size, 1.0f / part.l[r]);
        memcpy(a->out + ((int64_t)row_token(job, b, r) * a->num_heads + row_head(job, b, r)) * a->head_size, row,
               (size_t)a->head_size * sizeof *row);
    }
}

static qr_attend_part thread_part(qr_thread_scratch *scratch, int i)
{
    return (qr_attend_part){scratch->m[i], scratch->l[i], scratch->out[i + 1]};
}

static void attend_item(void *ctx, int item, int thread_idx)
{
    const attend_job *job = ctx;
    row_block b = find_rows(job, item);
    qr_thread_scratch *scratch = &job->cpu->threads[thread_idx];
    qr_attend_tile t;
    start_tile(job, &b, scratch, &t);
    qr_attend_part segment = thread_part(scratch, 0), all = thread_part(scratch, 1);
    clear_part(all);
    for (int s = first_segment(job, &b); s < num_segments(job, &b); s++) {
        attend_segment(job, &b, s, s > first_segment(job, &b), &t, segment);
        job->cpu->kernels->merge(&all, &segment, b.num_rows, t.padded);
    }
    write_out(job, &b, all, t.padded);
}

/* ---- split over the context */

static qr_attend_part split_part(const attend_job *job, int item, int segment, int padded)
{
    int64_t row = ((int64_t)item * job->max_segments + segment) * QR_ATTEND_ROWS;
    return (qr_attend_part){job->parts.m + row, job->parts.l + row, job->parts.o + row * padded};
}

static void attend_one_segment(void *ctx, int tile, int thread_idx)
{
    const attend_job *job = ctx;
    int item = tile / job->max_segments, segment = tile % job->max_segments;
    row_block b = find_rows(job, item);
    if (segment < first_segment(job, &b) || segment >= num_segments(job, &b)) return;
    qr_attend_tile t;
    start_tile(job, &b, &job->cpu->threads[thread_idx], &t);
    attend_segment(job, &b, segment, false, &t, split_part(job, item, segment, t.padded));
}

static void merge_segments(void *ctx, int item, int thread_idx)
{
    const attend_job *job = ctx;
    row_block b = find_rows(job, item);
    int padded = job->args->cache->padded;
    qr_attend_part all = thread_part(&job->cpu->threads[thread_idx], 1);
    clear_part(all);
    for (int s = first_segment(job, &b); s < num_segments(job, &b); s++) {
        qr_attend_part segment = split_part(job, item, s, padded);
        job->cpu->kernels->merge(&all, &segment, b.num_rows, padded);
    }
    write_out(job, &b, all, padded);
}

/* Whether to split; lays out the parts when so. */
static bool plan_split(attend_job *job, int num_items)
{
    int longest = 0;
    for (int i = 0; i < job->batch->num_reqs; i++)
        if (job->batch->seq_lens[i] > longest) longest = job->batch->seq_lens[i];
    job->max_segments = (longest + QR_ATTEND_SEGMENT - 1) / QR_ATTEND_SEGMENT;
    int threads = job->cpu->num_threads;
    if (threads == 1 || job->max_segments < 2 || num_items >= threads * ITEMS_PER_THREAD) return false;
    size_t rows = (size_t)num_items * (size_t)job->max_segments * QR_ATTEND_ROWS;
    size_t floats = rows * (size_t)(job->args->cache->padded + 2);
    if (floats * sizeof(float) > job->cpu->parts_bytes) return false;
    job->parts = (qr_attend_part){job->cpu->parts, job->cpu->parts + rows, job->cpu->parts + 2 * rows};
    return true;
}

void qr_cpu_attention(qr_backend *be, const qr_batch *batch, const qr_attention_args *args)
{
    qr_cpu_backend *cpu = qr_cpu(be);
    assert(batch->num_tokens <= cpu->max_tokens && args->head_size <= QR_MAX_HEAD_SIZE);
    attend_job job = {.cpu = cpu, .batch = batch, .args = args, .group = args->num_heads / args->num_kv_heads};
    int num_items = 0;
    for (int i = 0; i < batch->num_reqs; i++) {
        cpu->item_start[i] = num_items;
        num_items += blocks_of_request(&job, i) * args->num_kv_heads;
    }
    cpu->item_start[batch->num_reqs] = num_items;
    if (!plan_split(&job, num_items)) {
        qr_pool_run(be->pool, attend_item, &job, num_items);
        return;
    }
    qr_pool_run(be->pool, attend_one_segment, &job, num_items * job.max_segments);
    qr_pool_run(be->pool, merge_segments, &job, num_items);
}
