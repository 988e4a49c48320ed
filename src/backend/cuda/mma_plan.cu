/* The cutting of a batch into the pieces of work of mma_attention.h. */
#include "backend/cuda/mma_attention.h"

bool qr_mma_attention_supported(int head_size, qr_kv_dtype dtype, int block_size)
{
    bool size = head_size == 64 || head_size == 96 || head_size == 128 || head_size == 256;
    return size && dtype != QR_KV_F32 && (dtype == QR_KV_F16 ? block_size >= 8 : block_size >= 16);
}

static int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

size_t qr_mma_max_items(int max_tokens, int max_reqs, int group, int64_t num_slots)
{
    size_t decode = (size_t)(num_slots / QR_MMA_SEGMENT) + (size_t)max_reqs;
    size_t prefill = (size_t)((int64_t)max_tokens * group / 64) + (size_t)max_reqs;
    return decode + (size_t)max_reqs + prefill;
}

qr_mma_plan qr_mma_plan_batch(const qr_batch *batch, int group, int head_size, qr_mma_item *items)
{
    qr_mma_plan plan = {};
    const int32_t *start = batch->query_start_loc;
    int rows_per_tile = qr_mma_prefill_rows(head_size), n = 0, longest = 0;
    for (int r = 0; r < batch->num_reqs; r++) {
        int rows = (start[r + 1] - start[r]) * group;
        if (rows == 0) continue;
        if (rows > QR_MMA_ROWS) {
            if (ceil_div(rows, rows_per_tile) > longest) longest = ceil_div(rows, rows_per_tile);
            continue;
        }
        if (rows > plan.decode_rows) plan.decode_rows = rows;
        for (int s = 0; s < ceil_div(batch->seq_lens[r], QR_MMA_SEGMENT); s++) items[n++] = qr_mma_item{r, s};
    }
    plan.num_decode = n;
    for (int i = 0; i < plan.num_decode; i++)
        if (items[i].idx == 0) items[n++] = qr_mma_item{items[i].req, i};
    plan.num_merge = n - plan.num_decode;
    for (int tile = longest - 1; tile >= 0; tile--)
        for (int r = 0; r < batch->num_reqs; r++) {
            int rows = (start[r + 1] - start[r]) * group;
            if (rows > QR_MMA_ROWS && tile < ceil_div(rows, rows_per_tile)) items[n++] = qr_mma_item{r, tile};
        }
    plan.num_prefill = n - plan.num_decode - plan.num_merge;
    return plan;
}

size_t qr_mma_part_floats(const qr_mma_plan *plan, int num_kv_heads, int head_size)
{
    return (size_t)plan->num_decode * (size_t)num_kv_heads * (size_t)plan->decode_rows * (size_t)(head_size + 2);
}
