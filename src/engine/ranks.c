#include "engine/ranks.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "engine/swap.h"

enum { PAIRS_AT_A_TIME = 512 };

typedef enum command { END, OPEN, CLOSE, STEP, READ_BLOCK, WRITE_BLOCK } command;

/* What every message begins with; fixed size. */
typedef struct head {
    int32_t command;
    int32_t num_swap_outs, num_swap_ins, num_copies;                           /* STEP */
    int32_t num_tokens, num_reqs, num_samples, max_blocks, prefixes_are_there; /* STEP */
    int32_t block_id;                                                          /* READ_BLOCK, WRITE_BLOCK */
} head;

struct qr_ranks {
    qr_comm *comm;
    qr_backend *be;
    qr_model *model;
    bool is_open;
    qr_ranks_config config;
    size_t block_bytes[QR_MAX_RANKS]; /* each rank's part */
    uint8_t *buffer;                  /* a batch, or a block of all ranks */
    /* ranks 1 and above */
    qr_kv_cache *cache;
    qr_model_workspace *ws;
    qr_swap swap;
};

quire_status qr_ranks_create(qr_comm *comm, qr_backend *be, qr_model *model, qr_ranks **out, quire_error *error)
{
    qr_ranks *r = qr_calloc(1, sizeof *r);
    if (!r) return qr_fail_nomem(error, "the ranks", sizeof *r);
    r->comm = comm;
    r->be = be;
    r->model = model;
    *out = r;
    return QUIRE_OK;
}

static void deinit_session(qr_ranks *r)
{
    qr_swap_deinit(&r->swap);
    qr_model_workspace_destroy(r->ws);
    if (r->cache) r->be->ops->kv_cache_destroy(r->be, r->cache);
    qr_free(r->buffer);
    r->ws = NULL;
    r->cache = NULL;
    r->buffer = NULL;
    r->is_open = false;
}

void qr_ranks_destroy(qr_ranks *r)
{
    if (!r) return;
    deinit_session(r);
    qr_free(r);
}

static void send(qr_ranks *r, head h) { r->comm->broadcast(r->comm, &h, sizeof h); }

void qr_ranks_end(qr_ranks *r) { send(r, (head){.command = END}); }

/* ---- the batch as one message ---------------------------------------------------------------------- */

/* Where the arrays lie behind one another, the widest first. */
typedef struct layout {
    int64_t *slot_mapping;
    int32_t *input_ids, *positions, *query_start_loc, *seq_lens, *block_table, *logits_indices, *prefix_order,
        *prefix_blocks;
} layout;

static size_t batch_bytes(const head *h)
{
    const size_t tokens = (size_t)h->num_tokens, reqs = (size_t)h->num_reqs;
    return tokens * sizeof(int64_t) +
           (2 * tokens + 1 + 4 * reqs + (size_t)h->num_samples + reqs * (size_t)h->max_blocks) * sizeof(int32_t);
}

static layout lay_out(const head *h, uint8_t *buffer)
{
    const size_t tokens = (size_t)h->num_tokens, reqs = (size_t)h->num_reqs;
    layout l;
    l.slot_mapping = (int64_t *)(void *)buffer;
    l.input_ids = (int32_t *)(void *)(l.slot_mapping + tokens);
    l.positions = l.input_ids + tokens;
    l.query_start_loc = l.positions + tokens;
    l.seq_lens = l.query_start_loc + reqs + 1;
    l.logits_indices = l.seq_lens + reqs;
    l.prefix_order = l.logits_indices + h->num_samples;
    l.prefix_blocks = l.prefix_order + reqs;
    l.block_table = l.prefix_blocks + reqs;
    assert((uint8_t *)(l.block_table + reqs * (size_t)h->max_blocks) == buffer + batch_bytes(h));
    return l;
}

static size_t largest_batch_bytes(const qr_ranks_config *c)
{
    const head h = {.num_tokens = c->max_tokens,
                    .num_reqs = c->max_seqs,
                    .num_samples = c->max_tokens,
                    .max_blocks = (c->max_context + c->kv.block_size - 1) / c->kv.block_size};
    return batch_bytes(&h);
}

static void put(int32_t *to, const int32_t *from, int count) { memcpy(to, from, (size_t)count * sizeof *to); }

static void send_batch(qr_ranks *r, const head *h, const qr_batch *b)
{
    layout l = lay_out(h, r->buffer);
    memcpy(l.slot_mapping, b->slot_mapping, (size_t)b->num_tokens * sizeof *l.slot_mapping);
    put(l.input_ids, b->input_ids, b->num_tokens);
    put(l.positions, b->positions, b->num_tokens);
    put(l.query_start_loc, b->query_start_loc, b->num_reqs + 1);
    put(l.seq_lens, b->seq_lens, b->num_reqs);
    put(l.logits_indices, b->logits_indices, b->num_samples);
    if (h->prefixes_are_there) {
        put(l.prefix_order, b->prefix_order, b->num_reqs);
        put(l.prefix_blocks, b->prefix_blocks, b->num_reqs);
    }
    for (int i = 0; i < b->num_reqs; i++)
        put(l.block_table + (size_t)i * (size_t)h->max_blocks, b->block_table + (size_t)i * (size_t)b->max_blocks,
            (b->seq_lens[i] + r->config.kv.block_size - 1) / r->config.kv.block_size);
    r->comm->broadcast(r->comm, r->buffer, batch_bytes(h));
}

static qr_batch receive_batch(qr_ranks *r, const head *h)
{
    const layout l = lay_out(h, r->buffer);
    r->comm->broadcast(r->comm, r->buffer, batch_bytes(h));
    return (qr_batch){.num_tokens = h->num_tokens,
                      .num_reqs = h->num_reqs,
                      .num_samples = h->num_samples,
                      .max_blocks = h->max_blocks,
                      .input_ids = l.input_ids,
                      .positions = l.positions,
                      .slot_mapping = l.slot_mapping,
                      .query_start_loc = l.query_start_loc,
                      .seq_lens = l.seq_lens,
                      .block_table = l.block_table,
                      .logits_indices = l.logits_indices,
                      .prefix_order = h->prefixes_are_there ? l.prefix_order : NULL,
                      .prefix_blocks = h->prefixes_are_there ? l.prefix_blocks : NULL};
}

/* ---- rank 0 ---------------------------------------------------------------------------------------- */

static size_t part_bytes(const qr_ranks *r, qr_kv_config kv, int rank)
{
    kv.num_kv_heads = (int)qr_shard_kv_heads(qr_model_get_config(r->model), rank, r->comm->size).count;
    return r->be->ops->kv_block_bytes(r->be, &kv);
}

size_t qr_ranks_block_bytes(const qr_ranks *r, qr_backend *be, const qr_kv_config *config)
{
    if (!r) return be->ops->kv_block_bytes(be, config);
    size_t bytes = 0;
    for (int i = 0; i < r->comm->size; i++) bytes += part_bytes(r, *config, i);
    return bytes;
}

/* What both sides keep: the configuration and a buffer. */
static quire_status begin_session(qr_ranks *r, const qr_ranks_config *config, quire_error *error)
{
    r->config = *config;
    r->is_open = true;
    for (int i = 0; i < r->comm->size; i++) r->block_bytes[i] = part_bytes(r, config->kv, i);
    const size_t block = qr_ranks_block_bytes(r, r->be, &config->kv), batch = largest_batch_bytes(config);
    const size_t bytes = block > batch ? block : batch;
    r->buffer = qr_aligned_alloc(64, bytes);
    return r->buffer ? QUIRE_OK : qr_fail_nomem(error, "messages to other ranks", bytes);
}

quire_status qr_ranks_open(qr_ranks *r, const qr_ranks_config *config, quire_error *error)
{
    if (!r) return QUIRE_OK;
    if (r->is_open) return qr_fail(error, QUIRE_INVALID, "with tensor parallelism a model serves one engine at a time");
    qr_ranks_config sent = *config;
    send(r, (head){.command = OPEN});
    r->comm->broadcast(r->comm, &sent, sizeof sent);
    quire_error own;
    quire_status status = qr_comm_agree(r->comm, begin_session(r, config, &own), &own);
    if (status == QUIRE_OK) return QUIRE_OK;
    deinit_session(r);
    return qr_fail(error, status, "%s", own.message);
}

void qr_ranks_close(qr_ranks *r)
{
    if (!r || !r->is_open) return;
    send(r, (head){.command = CLOSE});
    deinit_session(r);
}

static void send_pairs(qr_ranks *r, const qr_block_copy *pairs, int num_pairs)
{
    qr_block_copy piece[PAIRS_AT_A_TIME];
    for (int at = 0; at < num_pairs; at += PAIRS_AT_A_TIME) {
        const int n = num_pairs - at < PAIRS_AT_A_TIME ? num_pairs - at : PAIRS_AT_A_TIME;
        memcpy(piece, pairs + at, (size_t)n * sizeof *pairs);
        r->comm->broadcast(r->comm, piece, (size_t)n * sizeof *pairs);
    }
}

void qr_ranks_step(qr_ranks *r, const qr_block_moves *moves, const qr_batch *batch)
{
    if (!r) return;
    head h = {.command = STEP,
              .num_swap_outs = moves->num_swap_outs,
              .num_swap_ins = moves->num_swap_ins,
              .num_copies = moves->num_copies,
              .num_tokens = batch->num_tokens,
              .num_reqs = batch->num_reqs,
              .num_samples = batch->num_samples,
              .prefixes_are_there = batch->prefix_order != NULL};
    assert(batch->num_tokens <= r->config.max_tokens && batch->num_reqs <= r->config.max_seqs);
    for (int i = 0; i < batch->num_reqs; i++) {
        const int blocks = (batch->seq_lens[i] + r->config.kv.block_size - 1) / r->config.kv.block_size;
        if (blocks > h.max_blocks) h.max_blocks = blocks;
    }
    send(r, h);
    send_pairs(r, moves->swap_outs, moves->num_swap_outs);
    send_pairs(r, moves->swap_ins, moves->num_swap_ins);
    send_pairs(r, moves->copies, moves->num_copies);
    send_batch(r, &h, batch);
}

void qr_ranks_read_block(qr_ranks *r, qr_backend *be, qr_kv_cache *cache, int32_t block_id, void *dst)
{
    if (!r) {
        be->ops->kv_read_block(be, cache, block_id, dst);
        return;
    }
    send(r, (head){.command = READ_BLOCK, .block_id = block_id});
    be->ops->kv_read_block(be, cache, block_id, r->buffer);
    r->comm->gather(r->comm, r->buffer, r->block_bytes, dst);
}

void qr_ranks_write_block(qr_ranks *r, qr_backend *be, qr_kv_cache *cache, int32_t block_id, const void *src)
{
    be->ops->kv_write_block(be, cache, block_id, src); /* rank 0's part comes first */
    if (!r) return;
    const size_t bytes = qr_ranks_block_bytes(r, be, &r->config.kv);
    send(r, (head){.command = WRITE_BLOCK, .block_id = block_id});
    memcpy(r->buffer, src, bytes);
    r->comm->broadcast(r->comm, r->buffer, bytes);
}

/* ---- ranks 1 and above -------------------------------------------------------------------------------- */

static quire_status create_session(qr_ranks *r, const qr_ranks_config *config, quire_error *error)
{
    const qr_ranks_config *c = &r->config;
    QR_TRY(begin_session(r, config, error));
    r->config.kv.num_kv_heads = qr_model_kv_config(r->model).num_kv_heads;
    QR_TRY(r->be->ops->kv_cache_create(r->be, &c->kv, &r->cache, error));
    if (c->num_swap_blocks > 0)
        QR_TRY(qr_swap_init(&r->swap, r->be, r->cache, r->block_bytes[r->comm->rank], c->num_swap_blocks,
                            *c->swap_path ? c->swap_path : NULL, error));
    return qr_model_workspace_create(r->model, c->max_tokens, c->max_seqs, c->logits_rows, c->max_context, &r->ws,
                                     error);
}

static void open_session(qr_ranks *r)
{
    qr_ranks_config config;
    quire_error error;
    r->comm->broadcast(r->comm, &config, sizeof config);
    if (qr_comm_agree(r->comm, create_session(r, &config, &error), &error) != QUIRE_OK) deinit_session(r);
}

static void swap_out(qr_ranks *r, const qr_block_copy *pairs, int n) { qr_swap_out(&r->swap, pairs, n); }
static void swap_in(qr_ranks *r, const qr_block_copy *pairs, int n) { qr_swap_in(&r->swap, pairs, n); }
static void copy(qr_ranks *r, const qr_block_copy *pairs, int n)
{
    r->be->ops->kv_copy_blocks(r->be, r->cache, (const qr_copy_pair *)(const void *)pairs, n);
}

static void receive_pairs(qr_ranks *r, int num_pairs, void (*move)(qr_ranks *r, const qr_block_copy *pairs, int n))
{
    qr_block_copy piece[PAIRS_AT_A_TIME];
    for (int at = 0; at < num_pairs; at += PAIRS_AT_A_TIME) {
        const int n = num_pairs - at < PAIRS_AT_A_TIME ? num_pairs - at : PAIRS_AT_A_TIME;
        r->comm->broadcast(r->comm, piece, (size_t)n * sizeof *piece);
        move(r, piece, n);
    }
}

static void run_step(qr_ranks *r, const head *h)
{
    receive_pairs(r, h->num_swap_outs, swap_out);
    receive_pairs(r, h->num_swap_ins, swap_in);
    receive_pairs(r, h->num_copies, copy);
    const qr_batch batch = receive_batch(r, h);
    qr_model_forward(r->model, r->ws, &batch, r->cache);
    for (int at = 0; at < batch.num_samples; at += r->config.logits_rows) {
        const int n = batch.num_samples - at < r->config.logits_rows ? batch.num_samples - at : r->config.logits_rows;
        (void)qr_model_logits(r->model, r->ws, at, n);
    }
}

static void send_block(qr_ranks *r, int32_t block_id)
{
    r->be->ops->kv_read_block(r->be, r->cache, block_id, r->buffer);
    r->comm->gather(r->comm, r->buffer, r->block_bytes, NULL);
}

static void take_block(qr_ranks *r, int32_t block_id)
{
    size_t before = 0, bytes = 0;
    for (int i = 0; i < r->comm->size; i++) {
        if (i < r->comm->rank) before += r->block_bytes[i];
        bytes += r->block_bytes[i];
    }
    r->comm->broadcast(r->comm, r->buffer, bytes);
    r->be->ops->kv_write_block(r->be, r->cache, block_id, r->buffer + before);
}

void qr_ranks_serve(qr_ranks *r)
{
    for (head h;;) {
        r->comm->broadcast(r->comm, &h, sizeof h);
        switch ((command)h.command) {
        case OPEN: open_session(r); break;
        case CLOSE: deinit_session(r); break;
        case STEP: run_step(r, &h); break;
        case READ_BLOCK: send_block(r, h.block_id); break;
        case WRITE_BLOCK: take_block(r, h.block_id); break;
        case END: return;
        }
    }
}
