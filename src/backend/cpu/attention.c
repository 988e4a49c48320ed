/* Paged attention: work items of up to 32 (token, head) rows of one KV head, of one request or of several whose block
 * tables begin alike.
 *
 *   item ─► segments of 512 positions ─► tiles of 128 ─► runs ─► attend kernel; merged in order (backend.h)
 *
 *   positions    0       128     256     384          A tile's runs are the sequences that have it in the same blocks:
 *   A  3 rows    |███████|███████|▒▒▒▒▒▒▒|▒▒▒         its K and V are read once for all their rows. Here two runs of 9
 *   B  3 rows    |       |       |▒▒▒▒▒▒▒|▒           rows, then one of 6 and one of 3, then three of 3.
 *   C  3 rows    |       |       |░░░░░░░|░░░░
 *
 * What a row sees and the order of its additions are its own, so runs change no bit. With fewer items than keep all
 * threads busy, each segment becomes an item of its own whose part is kept in scratch; a second loop merges the parts
 * in the same order: the same bits again. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"

enum {
    ITEMS_PER_THREAD = 4, /* or the contexts are split */
    RUNS_PER_THREAD = 16  /* of items one after the other, each fetching the next one's beginning */
};

typedef struct attend_job {
    qr_cpu_backend *cpu;
    const qr_batch *batch;
    const qr_attention_args *args;
    int heads_per_kv;
    int num_groups, num_items, items_per_run;
    int max_segments;     /* of the longest context */
    qr_attend_part parts; /* split: [item of rows][segment][row] */
} attend_job;

/* The rows of an item. */
typedef struct row_block {
    int kv_head, num_seqs, num_rows;
    int begin, end;                    /* positions that some row sees */
    int req[QR_ATTEND_ROWS];           /* of each sequence: its row of the block table */
    int shared[QR_ATTEND_ROWS];        /* its first positions that lie in the blocks of the sequence before it */
    int first_row[QR_ATTEND_ROWS + 1]; /* its rows: first_row[s] up to first_row[s + 1] */
    int token[QR_ATTEND_ROWS], head[QR_ATTEND_ROWS];
    int first[QR_ATTEND_ROWS], stop[QR_ATTEND_ROWS]; /* positions that each row sees: [first, stop) */
    const float *q[QR_ATTEND_ROWS];
} row_block;

/* Sequences [first_seq, end_seq) at the tile of positions [at, at + 128), which they have in the same blocks. */
typedef struct run {
    int at, first_seq, end_seq;
    int begin, end; /* positions of the tile that some row sees */
} run;

/* A way through the runs of an item. */
typedef struct walk {
    const row_block *b, *follows; /* follows: the item that the thread takes up afterwards, or NULL */
    bool more;                    /* now is a run, and tile has its blocks */
    run now;
    qr_attend_tile tile;
} walk;

/* ---- items */

static int request_at(const qr_batch *batch, int i) { return batch->prefix_order ? batch->prefix_order[i] : i; }

static int tokens_of(const qr_batch *batch, int req)
{
    return batch->query_start_loc[req + 1] - batch->query_start_loc[req];
}

/* Positions that the i-th request in prefix order begins with in the same blocks as the one before it. */
static int shared_positions(const attend_job *job, int i)
{
    return job->batch->prefix_blocks ? job->batch->prefix_blocks[i] * job->args->cache->config.block_size : 0;
}

/* Rows that requests may bring together: as many as fit an item, unless the threads would have too few items then. */
static int max_rows_together(const attend_job *job)
{
    int threads = job->cpu->num_threads;
    int64_t pieces = (int64_t)job->batch->num_tokens * job->args->num_heads * job->max_segments;
    int64_t rows = threads == 1 ? QR_ATTEND_ROWS : pieces / (threads * ITEMS_PER_THREAD);
    return rows < QR_ATTEND_ROWS ? (int)rows : QR_ATTEND_ROWS;
}

/* Groups of requests in prefix order: neighbours that share a tile and whose rows fit one item, else one alone. */
static void plan_items(attend_job *job)
{
    qr_attend_group *groups = job->cpu->groups;
    int limit = max_rows_together(job), rows = 0;
    for (int i = 0; i < job->batch->num_reqs; i++) {
        int more = tokens_of(job->batch, request_at(job->batch, i)) * job->heads_per_kv;
        bool joins = i > 0 && rows + more <= limit && shared_positions(job, i) >= QR_ATTEND_TILE;
        rows = joins ? rows + more : more;
        if (joins) continue; /* the group's items are there: one for each KV head */
        groups[job->num_groups++] = (qr_attend_group){i, job->num_items};
        job->num_items += (rows + QR_ATTEND_ROWS - 1) / QR_ATTEND_ROWS * job->args->num_kv_heads;
    }
    groups[job->num_groups] = (qr_attend_group){job->batch->num_reqs, job->num_items};
}

static const qr_attend_group *find_group(const attend_job *job, int item)
{
    const qr_attend_group *groups = job->cpu->groups;
    int low = 0, high = job->num_groups;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (groups[middle].first_item <= item)
            low = middle;
        else
            high = middle;
    }
    return groups + low;
}

/* Rows [row, end) of request req, counted as token of the request * heads_per_kv + head of the KV head. */
static void add_rows(const attend_job *job, row_block *b, int req, int row, int end)
{
    const qr_attention_args *a = job->args;
    int tokens = tokens_of(job->batch, req), context = job->batch->seq_lens[req];
    for (; row < end; row++) {
        int r = b->num_rows++, token = row / job->heads_per_kv;
        b->token[r] = job->batch->query_start_loc[req] + token;
        b->head[r] = b->kv_head * job->heads_per_kv + row % job->heads_per_kv;
        b->q[r] = a->q + b->token[r] * a->ld_q + (int64_t)b->head[r] * a->head_size;
        b->stop[r] = context - tokens + token + 1;
        b->first[r] = a->window > 0 && b->stop[r] > a->window ? b->stop[r] - a->window : 0;
        if (b->first[r] < b->begin) b->begin = b->first[r];
        if (b->stop[r] > b->end) b->end = b->stop[r];
    }
}

static void find_rows(const attend_job *job, int item, row_block *b)
{
    const qr_attend_group *group = find_group(job, item);
    int items_per_head = (group[1].first_item - group->first_item) / job->args->num_kv_heads;
    int in_group = item - group->first_item;
    b->kv_head = in_group / items_per_head;
    b->num_rows = 0;
    b->num_seqs = group[1].first_req - group->first_req;
    b->begin = INT32_MAX;
    b->end = 0;
    /* Late rows first: they are the longest, and a long item at the end would leave threads idle. */
    int first = (items_per_head - 1 - in_group % items_per_head) * QR_ATTEND_ROWS;
    for (int s = 0; s < b->num_seqs; s++) {
        int req = request_at(job->batch, group->first_req + s);
        int end = tokens_of(job->batch, req) * job->heads_per_kv;
        b->req[s] = req;
        b->shared[s] = shared_positions(job, group->first_req + s);
        b->first_row[s] = b->num_rows;
        add_rows(job, b, req, first, end < first + QR_ATTEND_ROWS ? end : first + QR_ATTEND_ROWS);
    }
    b->first_row[b->num_seqs] = b->num_rows;
}

/* ---- runs */

/* The run after r that sees something, tile by tile. */
static bool next_run(const row_block *b, run *r)
{
    do {
        if (r->end_seq == b->num_seqs) {
            r->at += QR_ATTEND_TILE;
            r->end_seq = 0;
        }
        if (r->at >= b->end) return false;
        r->first_seq = r->end_seq++;
        while (r->end_seq < b->num_seqs && b->shared[r->end_seq] >= r->at + QR_ATTEND_TILE) r->end_seq++;
        r->begin = r->at + QR_ATTEND_TILE;
        r->end = r->at;
        for (int i = b->first_row[r->first_seq]; i < b->first_row[r->end_seq]; i++) {
            if (b->first[i] < r->begin && b->stop[i] > r->at) r->begin = b->first[i] > r->at ? b->first[i] : r->at;
            if (b->stop[i] > r->end && b->first[i] < r->at + QR_ATTEND_TILE) r->end = b->stop[i];
        }
    } while (r->begin >= r->end);
    return true;
}

/* Where the blocks of a run's tile lie. */
static void find_blocks(const attend_job *job, const row_block *b, const run *r, const void **k, const void **v)
{
    const qr_kv_cache *c = job->args->cache;
    const int32_t *table = job->batch->block_table + (int64_t)b->req[r->first_seq] * job->batch->max_blocks;
    int bs = c->config.block_size;
    for (int i = 0, at = r->at; i < QR_ATTEND_TILE / bs; i++, at += bs) {
        /* a block that nobody sees may have no id: a visible one stands in, computed and never used */
        bool seen = at < r->end && at + bs > r->begin;
        int64_t id = table[(seen ? at : r->begin) / bs];
        k[i] = qr_kv_k(c, job->args->layer, id, b->kv_head);
        v[i] = qr_kv_v(c, job->args->layer, id, b->kv_head);
    }
}

/* The first run at or after position `at`; false: there is none. */
static bool first_run(const row_block *b, int at, run *r)
{
    if (at < b->begin) at = b->begin;
    *r = (run){.at = at / QR_ATTEND_TILE * QR_ATTEND_TILE};
    return next_run(b, r);
}

static void start_walk(const attend_job *job, const row_block *b, int at, qr_thread_scratch *scratch, walk *w)
{
    const qr_attention_args *a = job->args;
    w->b = b;
    w->follows = NULL;
    w->more = first_run(b, at, &w->now);
    w->tile = (qr_attend_tile){.dtype = a->cache->config.dtype,
                               .block_size = a->cache->config.block_size,
                               .head_size = a->head_size,
                               .padded = a->cache->padded,
                               .scale = a->scale,
                               .scores = scratch->scores};
    if (w->more) find_blocks(job, b, &w->now, w->tile.k, w->tile.v);
}

/* Ask for all of the walk's first run at once: nothing of it was fetched before. */
static void fetch_start(const attend_job *job, const walk *w)
{
    const qr_kv_cache *c = job->args->cache;
    for (int i = 0; w->more && i < QR_ATTEND_TILE / c->config.block_size; i++) {
        job->cpu->kernels->fetch_block(w->tile.k[i], (int)c->head_k_bytes);
        job->cpu->kernels->fetch_block(w->tile.v[i], (int)c->head_v_bytes);
    }
}

/* Its rows of `part`; then to the next run, whose K and V are fetched meanwhile. */
static void attend_run(const attend_job *job, walk *w, qr_attend_part part)
{
    const row_block *b = w->b;
    qr_attend_tile *t = &w->tile;
    run next = w->now, start;
    w->more = next_run(b, &next);
    if (!w->more && w->follows && first_run(w->follows, 0, &start))
        find_blocks(job, w->follows, &start, t->next_k, t->next_v);
    else /* or what is being read: no wait */
        find_blocks(job, b, w->more ? &next : &w->now, t->next_k, t->next_v);
    int row = b->first_row[w->now.first_seq], at = w->now.at;
    t->num_rows = b->first_row[w->now.end_seq] - row;
    t->q = b->q + row;
    t->max = part.m + row;
    t->sum = part.l + row;
    t->out = part.o + (int64_t)row * t->padded;
    for (int r = 0; r < t->num_rows; r++) {
        int first = b->first[row + r] - at, end = b->stop[row + r] - at;
        if (first < 0) first = 0;
        if (end > QR_ATTEND_TILE) end = QR_ATTEND_TILE;
        t->first[r] = first < end ? first : 0;
        t->end[r] = first < end ? end : 0;
    }
    job->cpu->kernels->attend(t);
    w->now = next;
    memcpy(t->k, t->next_k, sizeof t->k);
    memcpy(t->v, t->next_v, sizeof t->v);
}

/* ---- segments */

static qr_attend_part thread_part(qr_thread_scratch *scratch, int i)
{
    return (qr_attend_part){scratch->m[i], scratch->l[i], scratch->out[i]};
}

static void clear_part(qr_attend_part part)
{
    for (int r = 0; r < QR_ATTEND_ROWS; r++) {
        part.m[r] = -INFINITY;
        part.l[r] = 0.0f;
    }
}

/* The walk's runs up to the end of a segment into `part`. */
static void attend_segment(const attend_job *job, walk *w, int segment, qr_attend_part tile, qr_attend_part part)
{
    clear_part(part);
    while (w->more && w->now.at < (segment + 1) * QR_ATTEND_SEGMENT) {
        int at = w->now.at;
        clear_part(tile);
        do attend_run(job, w, tile);
        while (w->more && w->now.at == at);
        job->cpu->kernels->merge(&part, &tile, w->b->num_rows, w->tile.padded);
    }
}

static int first_segment(const row_block *b) { return b->begin / QR_ATTEND_SEGMENT; }
static int end_segment(const row_block *b) { return (b->end + QR_ATTEND_SEGMENT - 1) / QR_ATTEND_SEGMENT; }

static void write_out(const attend_job *job, const row_block *b, qr_attend_part part)
{
    const qr_attention_args *a = job->args;
    for (int r = 0; r < b->num_rows; r++) {
        float *row = part.o + (int64_t)r * a->cache->padded;
        job->cpu->kernels->scale_row(row, a->head_size, 1.0f / part.l[r]);
        memcpy(a->out + ((int64_t)b->token[r] * a->num_heads + b->head[r]) * a->head_size, row,
               (size_t)a->head_size * sizeof *row);
    }
}

static void attend_item(const attend_job *job, walk *w, qr_thread_scratch *scratch)
{
    qr_attend_part tile = thread_part(scratch, 0), segment = thread_part(scratch, 1), all = thread_part(scratch, 2);
    clear_part(all);
    for (int s = first_segment(w->b); s < end_segment(w->b); s++) {
        attend_segment(job, w, s, tile, segment);
        job->cpu->kernels->merge(&all, &segment, w->b->num_rows, w->tile.padded);
    }
    write_out(job, w->b, all);
}

static void attend_items(void *ctx, int index, int thread_idx)
{
    const attend_job *job = ctx;
    qr_thread_scratch *scratch = &job->cpu->threads[thread_idx];
    int first = index * job->items_per_run, end = first + job->items_per_run;
    if (end > job->num_items) end = job->num_items;
    row_block blocks[2];
    walk w;
    find_rows(job, first, &blocks[0]);
    for (int item = first; item < end; item++) {
        const row_block *b = &blocks[(item - first) % 2];
        row_block *follows = &blocks[(item - first + 1) % 2];
        start_walk(job, b, 0, scratch, &w);
        if (item == first) fetch_start(job, &w);
        if (item + 1 < end) {
            find_rows(job, item + 1, follows);
            w.follows = follows;
        }
        attend_item(job, &w, scratch);
    }
}

/* ---- split over the context */

static qr_attend_part split_part(const attend_job *job, int item, int segment)
{
    int64_t row = ((int64_t)item * job->max_segments + segment) * QR_ATTEND_ROWS;
    return (qr_attend_part){job->parts.m + row, job->parts.l + row, job->parts.o + row * job->args->cache->padded};
}

static void attend_one_segment(void *ctx, int index, int thread_idx)
{
    const attend_job *job = ctx;
    qr_thread_scratch *scratch = &job->cpu->threads[thread_idx];
    int item = index / job->max_segments, segment = index % job->max_segments;
    row_block b;
    walk w;
    find_rows(job, item, &b);
    if (segment < first_segment(&b) || segment >= end_segment(&b)) return;
    start_walk(job, &b, segment * QR_ATTEND_SEGMENT, scratch, &w);
    fetch_start(job, &w);
    attend_segment(job, &w, segment, thread_part(scratch, 0), split_part(job, item, segment));
}

static void merge_segments(void *ctx, int item, int thread_idx)
{
    const attend_job *job = ctx;
    row_block b;
    find_rows(job, item, &b);
    qr_attend_part all = thread_part(&job->cpu->threads[thread_idx], 2);
    clear_part(all);
    for (int s = first_segment(&b); s < end_segment(&b); s++) {
        qr_attend_part segment = split_part(job, item, s);
        job->cpu->kernels->merge(&all, &segment, b.num_rows, job->args->cache->padded);
    }
    write_out(job, &b, all);
}

/* Whether to split; lays out the parts when so. */
static bool plan_split(attend_job *job)
{
    int threads = job->cpu->num_threads;
    if (threads == 1 || job->max_segments < 2 || job->num_items >= threads * ITEMS_PER_THREAD) return false;
    size_t rows = (size_t)job->num_items * (size_t)job->max_segments * QR_ATTEND_ROWS;
    size_t floats = rows * (size_t)(job->args->cache->padded + 2);
    if (floats * sizeof(float) > job->cpu->parts_bytes) return false;
    job->parts = (qr_attend_part){job->cpu->parts, job->cpu->parts + rows, job->cpu->parts + 2 * rows};
    return true;
}

void qr_cpu_attention(qr_backend *be, const qr_batch *batch, const qr_attention_args *args)
{
    qr_cpu_backend *cpu = qr_cpu(be);
    assert(batch->num_tokens <= cpu->max_tokens && args->head_size <= QR_MAX_HEAD_SIZE);
    attend_job job = {.cpu = cpu, .batch = batch, .args = args, .heads_per_kv = args->num_heads / args->num_kv_heads};
    job.max_segments = (qr_batch_max_seq_len(batch) + QR_ATTEND_SEGMENT - 1) / QR_ATTEND_SEGMENT;
    plan_items(&job);
    if (!plan_split(&job)) {
        job.items_per_run = job.num_items / (cpu->num_threads * RUNS_PER_THREAD) + 1;
        qr_pool_run(be->pool, attend_items, &job, (job.num_items + job.items_per_run - 1) / job.items_per_run);
        return;
    }
    qr_pool_run(be->pool, attend_one_segment, &job, job.num_items * job.max_segments);
    qr_pool_run(be->pool, merge_segments, &job, job.num_items);
}
