#include "kv/block_table.h"

#include <assert.h>
#include <string.h>

static int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t blocks_for(const qr_block_pool *pool, int32_t num_tokens)
{
    const int block_size = qr_block_pool_block_size(pool);
    return num_tokens / block_size + (num_tokens % block_size != 0);
}

void qr_block_table_init(qr_block_table *table, int32_t *block_ids, int32_t max_blocks)
{
    *table = (qr_block_table){.block_ids = block_ids, .max_blocks = max_blocks};
}

void qr_block_table_set_region(qr_block_table *table, int32_t first_block, int32_t num_blocks)
{
    assert(table->num_blocks == 0 && num_blocks <= table->max_blocks);
    table->first_block = first_block;
    table->num_region_blocks = num_blocks;
}

int64_t qr_block_table_slot(const qr_block_table *table, const qr_block_pool *pool, int32_t position)
{
    assert(position >= 0 && position < table->num_tokens);
    const int block_size = qr_block_pool_block_size(pool);
    return (int64_t)table->block_ids[position / block_size] * block_size + position % block_size;
}

/* The block that the next token goes into if it has tokens already, else QR_NO_BLOCK. */
static int32_t partly_filled_block(const qr_block_table *table, const qr_block_pool *pool)
{
    const int block_size = qr_block_pool_block_size(pool);
    return table->num_tokens % block_size == 0 ? QR_NO_BLOCK : table->block_ids[table->num_tokens / block_size];
}

static bool must_copy(const qr_block_pool *pool, int32_t partly_filled)
{
    return partly_filled != QR_NO_BLOCK && qr_block_pool_ref_cnt(pool, partly_filled) > 1;
}

int32_t qr_block_table_blocks_needed(const qr_block_table *table, const qr_block_pool *pool, int32_t num_tokens)
{
    if (num_tokens == 0) return 0;
    const int32_t num_blocks = blocks_for(pool, table->num_tokens + num_tokens);
    if (table->num_region_blocks > 0 && num_blocks > table->num_region_blocks) return INT32_MAX;
    return num_blocks - table->num_blocks + must_copy(pool, partly_filled_block(table, pool));
}

/* There are so many. */
static quire_status add_blocks(qr_block_table *table, qr_block_pool *pool, int32_t num_blocks)
{
    int32_t *ids = table->block_ids + table->num_blocks;
    if (table->num_region_blocks > 0)
        qr_block_pool_take(pool, table->first_block + table->num_blocks, num_blocks, ids);
    else
        QR_TRY(qr_block_pool_alloc(pool, num_blocks, ids));
    table->num_blocks += num_blocks;
    return QUIRE_OK;
}

quire_status qr_block_table_append(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens, qr_block_copy *copy,
                                   bool *out_copied)
{
    assert(num_tokens >= 1);
    *out_copied = false;
    const int32_t room = table->num_blocks * qr_block_pool_block_size(pool) - table->num_tokens;
    if (num_tokens <= room && qr_block_pool_ref_cnt(pool, table->block_ids[table->num_blocks - 1]) == 1) {
        qr_block_pool_uncache(pool, table->block_ids[table->num_blocks - 1]);
        table->num_tokens += num_tokens;
        return QUIRE_OK;
    }
    const int32_t partly_filled = partly_filled_block(table, pool);
    const bool copies = must_copy(pool, partly_filled);
    const int32_t num_blocks = blocks_for(pool, table->num_tokens + num_tokens);
    assert(num_blocks <= table->max_blocks);
    if (num_blocks - table->num_blocks + copies > qr_block_pool_num_free(pool)) return QUIRE_NO_BLOCKS;
    if (table->num_region_blocks > 0 && num_blocks > table->num_region_blocks) return QUIRE_NO_BLOCKS;

    if (copies) {
        int32_t dst;
        QR_TRY(qr_block_pool_alloc(pool, 1, &dst));
        *copy = (qr_block_copy){.src_block = partly_filled, .dst_block = dst};
        *out_copied = true;
        qr_block_pool_free(pool, &partly_filled, 1);
        table->block_ids[table->num_blocks - 1] = dst;
    } else if (partly_filled != QR_NO_BLOCK) {
        qr_block_pool_uncache(pool, partly_filled); /* a trimmed block's old content is about to go */
    }
    QR_TRY(add_blocks(table, pool, num_blocks - table->num_blocks));
    table->num_tokens += num_tokens;
    return QUIRE_OK;
}

/* The tokens of logical block `idx`, in one piece: in place, or gathered into buf [block_size]. */
static const int32_t *tokens_of_block(qr_token_view view, int32_t idx, int block_size, int32_t *buf)
{
    const int32_t first = idx * block_size, end = first + block_size;
    assert(end <= view.num_head + view.num_tail);
    if (end <= view.num_head) return view.head + first;
    if (first >= view.num_head) return view.tail + (first - view.num_head);
    const int32_t from_head = view.num_head - first;
    memcpy(buf, view.head + first, (size_t)from_head * sizeof *buf);
    memcpy(buf + from_head, view.tail, (size_t)(block_size - from_head) * sizeof *buf);
    return buf;
}

void qr_block_table_commit(qr_block_table *table, qr_block_pool *pool, qr_token_view tokens, int32_t num_computed,
                           uint64_t extra_key)
{
    assert(num_computed <= table->num_tokens);
    const int block_size = qr_block_pool_block_size(pool);
    int32_t buf[QR_MAX_BLOCK_SIZE];
    for (int32_t idx = table->num_full_blocks; idx * block_size < num_computed; idx++) {
        const int32_t id = table->block_ids[idx];
        const int32_t num_live = min_i32(block_size, num_computed - idx * block_size);
        qr_block_pool_set_live(pool, id, num_live);
        if (num_live < block_size) break;
        if (qr_block_pool_caching(pool))
            qr_block_pool_cache(pool, id, idx > 0 ? table->block_ids[idx - 1] : QR_NO_BLOCK,
                                tokens_of_block(tokens, idx, block_size, buf), extra_key);
        table->num_full_blocks = idx + 1;
    }
}

void qr_block_table_fork(const qr_block_table *src, qr_block_table *dst, qr_block_pool *pool)
{
    assert(dst->num_blocks == 0 && src->num_blocks <= dst->max_blocks);
    memcpy(dst->block_ids, src->block_ids, (size_t)src->num_blocks * sizeof *dst->block_ids);
    dst->num_blocks = src->num_blocks;
    dst->num_tokens = src->num_tokens;
    dst->num_full_blocks = src->num_full_blocks;
    qr_block_pool_touch(pool, dst->block_ids, dst->num_blocks);
}

void qr_block_table_copy(const qr_block_table *src, qr_block_table *dst, qr_block_pool *pool, qr_block_copy *copies)
{
    assert(dst->num_blocks == 0 && src->num_blocks <= dst->num_region_blocks);
    qr_block_pool_take(pool, dst->first_block, src->num_blocks, dst->block_ids);
    for (int32_t i = 0; i < src->num_blocks; i++) {
        copies[i] = (qr_block_copy){.src_block = src->block_ids[i], .dst_block = dst->block_ids[i]};
        qr_block_pool_set_live(pool, dst->block_ids[i], qr_block_pool_num_live(pool, src->block_ids[i]));
    }
    dst->num_blocks = src->num_blocks;
    dst->num_tokens = src->num_tokens;
    dst->num_full_blocks = src->num_full_blocks;
}

void qr_block_table_trim(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens)
{
    assert(num_tokens >= 0 && num_tokens <= table->num_tokens);
    const int block_size = qr_block_pool_block_size(pool);
    const int32_t num_blocks = blocks_for(pool, num_tokens);
    qr_block_pool_free(pool, table->block_ids + num_blocks, table->num_blocks - num_blocks);
    table->num_blocks = num_blocks;
    table->num_tokens = num_tokens;
    table->num_full_blocks = min_i32(table->num_full_blocks, num_tokens / block_size);
    const int32_t last = partly_filled_block(table, pool);
    if (last != QR_NO_BLOCK && qr_block_pool_ref_cnt(pool, last) == 1)
        qr_block_pool_set_live(pool, last, min_i32(qr_block_pool_num_live(pool, last), num_tokens % block_size));
}

void qr_block_table_undo_append(qr_block_table *table, qr_block_pool *pool, int32_t num_tokens,
                                const qr_block_copy *copy)
{
    qr_block_table_trim(table, pool, num_tokens);
    if (!copy) return;
    int32_t *last = &table->block_ids[table->num_blocks - 1];
    assert(*last == copy->dst_block);
    qr_block_pool_touch(pool, &copy->src_block, 1); /* its other holders have it still */
    qr_block_pool_free(pool, last, 1);
    *last = copy->src_block;
}

void qr_block_table_clear(qr_block_table *table, qr_block_pool *pool)
{
    qr_block_pool_free(pool, table->block_ids, table->num_blocks);
    table->num_blocks = table->num_tokens = table->num_full_blocks = 0;
}

int32_t qr_block_table_adopt_prefix(qr_block_table *table, qr_block_pool *pool, qr_token_view tokens,
                                    int32_t max_tokens, uint64_t extra_key)
{
    assert(table->num_blocks == 0);
    if (!qr_block_pool_caching(pool)) return 0;
    const int block_size = qr_block_pool_block_size(pool);
    int32_t buf[QR_MAX_BLOCK_SIZE];
    int32_t parent = QR_NO_BLOCK;
    while (table->num_blocks < max_tokens / block_size) {
        const int32_t *block_tokens = tokens_of_block(tokens, table->num_blocks, block_size, buf);
        const int32_t id = qr_block_pool_lookup(pool, parent, block_tokens, extra_key);
        if (id == QR_NO_BLOCK) break;
        qr_block_pool_touch(pool, &id, 1);
        qr_block_pool_set_live(pool, id, block_size); /* a trim may have left fewer */
        table->block_ids[table->num_blocks++] = parent = id;
    }
    table->num_full_blocks = table->num_blocks;
    table->num_tokens = table->num_blocks * block_size;
    return table->num_tokens;
}

int32_t qr_block_table_load_prefix(qr_block_table *table, qr_block_pool *pool, qr_token_view tokens, int32_t max_tokens,
                                   uint64_t extra_key, int32_t max_loads)
{
    const int block_size = qr_block_pool_block_size(pool);
    assert(table->num_tokens == table->num_blocks * block_size);
    int32_t buf[QR_MAX_BLOCK_SIZE];
    int32_t num_loads = 0;
    for (; num_loads < max_loads && table->num_blocks < max_tokens / block_size; num_loads++) {
        const int32_t parent = table->num_blocks > 0 ? table->block_ids[table->num_blocks - 1] : QR_NO_BLOCK;
        const int32_t *block_tokens = tokens_of_block(tokens, table->num_blocks, block_size, buf);
        const int32_t id = qr_block_pool_load(pool, parent, block_tokens, extra_key);
        if (id == QR_NO_BLOCK) break;
        table->block_ids[table->num_blocks++] = id;
    }
    table->num_full_blocks = table->num_blocks;
    table->num_tokens = table->num_blocks * block_size;
    return num_loads;
}
