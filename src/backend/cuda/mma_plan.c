/* What the tensor-core kernels take, and how a batch and a matrix are cut into their pieces of work: integers only. */
#include "backend/cuda/mma_attention.h"
#include "backend/cuda/mma_linear.h"

static int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

/* ---- attention */

bool qr_mma_attention_supported(int head_size, int group, qr_kv_dtype dtype, int block_size)
{
    bool size = head_size == 64 || head_size == 96 || head_size == 128 || head_size == 256;
    return size && group <= QR_MMA_MAX_GROUP && dtype != QR_KV_F32 && (dtype == QR_KV_F16 || block_size >= 16);
}

size_t qr_mma_max_items(int max_tokens, int max_reqs, int max_context)
{
    size_t decode = (size_t)max_reqs * (size_t)ceil_div(max_context, QR_MMA_SEGMENT);
    return decode + (size_t)max_reqs + ((size_t)max_tokens + (size_t)max_reqs); /* a group of 64: a tile per token */
}

qr_mma_plan qr_mma_plan_batch(const qr_mma_plan_args *args, qr_mma_item *items)
{
    qr_mma_plan plan = {0};
    const int32_t *start = args->query_start_loc;
    int64_t part_floats = (int64_t)args->num_kv_heads * (args->head_size + 2);
    int rows_per_tile = qr_mma_prefill_rows(args->head_size), n = 0, longest = 0;
    for (int r = 0; r < args->num_reqs; r++) {
        int rows = (start[r + 1] - start[r]) * args->group, segments = ceil_div(args->seq_lens[r], QR_MMA_SEGMENT);
        int most = rows > plan.decode_rows ? rows : plan.decode_rows;
        if (rows == 0) continue;
        if (rows <= QR_MMA_ROWS && (n + segments) * most * part_floats <= args->max_part_floats) {
            plan.decode_rows = most;
            for (int s = 0; s < segments; s++) items[n++] = (qr_mma_item){r, s};
        } else if (ceil_div(rows, rows_per_tile) > longest) {
            longest = ceil_div(rows, rows_per_tile);
        }
    }
    plan.num_decode = n;
    for (int i = 0; i < plan.num_decode; i++)
        if (items[i].idx == 0) items[n++] = (qr_mma_item){items[i].req, i};
    plan.num_merge = n - plan.num_decode;
    for (int tile = longest - 1; tile >= 0; tile--)
        for (int r = 0, merge = plan.num_decode; r < args->num_reqs; r++) {
            bool decode = merge < plan.num_decode + plan.num_merge && items[merge].req == r;
            merge += decode;
            if (!decode && tile < ceil_div((int64_t)(start[r + 1] - start[r]) * args->group, rows_per_tile))
                items[n++] = (qr_mma_item){r, tile};
        }
    plan.num_prefill = n - plan.num_decode - plan.num_merge;
    return plan;
}

bool qr_mma_plan_padded(const qr_mma_plan_args *args, int num_segments, qr_mma_plan *out, qr_mma_item *items)
{
    const int num_decode = args->num_reqs * num_segments;
    const int64_t part_floats = (int64_t)args->num_kv_heads * (args->head_size + 2);
    if (args->group > QR_MMA_ROWS || num_decode * args->group * part_floats > args->max_part_floats) return false;
    for (int r = 0; r < args->num_reqs; r++) {
        for (int s = 0; s < num_segments; s++) items[r * num_segments + s] = (qr_mma_item){r, s};
        items[num_decode + r] = (qr_mma_item){r, r * num_segments};
    }
    *out = (qr_mma_plan){.num_decode = num_decode, .num_merge = args->num_reqs, .decode_rows = args->group};
    return true;
}

/* ---- linear */

static bool format_of(qr_dtype dtype, qr_mma_format *format, size_t *unit_bytes)
{
    switch (dtype) {
    case QR_BF16: return *format = QR_MMA_BF16, *unit_bytes = 4096, true;
    case QR_F16: return *format = QR_MMA_F16, *unit_bytes = 4096, true;
    case QR_Q4_0: return *format = QR_MMA_Q4, *unit_bytes = 1024 + 128, true;
    case QR_Q4_1: return *format = QR_MMA_Q4_MIN, *unit_bytes = 1024 + 256, true;
    case QR_Q4_K: return *format = QR_MMA_Q4_SUPER, *unit_bytes = 1024 + 192, true;
    case QR_Q5_0:
    case QR_Q8_0: return *format = QR_MMA_Q8, *unit_bytes = 2048 + 128, true;
    case QR_Q6_K: return *format = QR_MMA_Q8_SUPER, *unit_bytes = 2048 + 160, true;
    default: return false;
    }
}

bool qr_mma_weight_describe(qr_dtype dtype, int64_t num_rows, int64_t num_cols, qr_mma_weight *out)
{
    qr_mma_weight w = {.dtype = dtype, .num_rows = num_rows, .num_cols = num_cols};
    if (num_cols % 8 != 0 || num_rows < 1 || num_cols < 1 || !format_of(dtype, &w.format, &w.unit_bytes)) return false;
    int tiles = ceil_div(num_rows, QR_LINEAR_ROWS);
    w.num_units = ceil_div(num_cols, QR_UNIT_COLS);
    w.num_panels = (int64_t)tiles * (QR_LINEAR_ROWS / QR_UNIT_ROWS);
    w.bytes = (size_t)w.num_panels * (size_t)w.num_units * w.unit_bytes;
    /* about 256 blocks, of at least four units: two for each multiprocessor of the larger devices */
    int splits = tiles > QR_LINEAR_MAX_BLOCKS / 2 ? 1 : QR_LINEAR_MAX_BLOCKS / tiles, most = w.num_units / 4;
    if (splits > most) splits = most;
    if (splits < 1) splits = 1;
    w.split_units = ceil_div(w.num_units, splits);
    w.num_splits = ceil_div(w.num_units, w.split_units);
    *out = w;
    return true;
}
