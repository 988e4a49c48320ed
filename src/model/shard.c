#include "model/shard.h"

#include <string.h>

#include "base/mem.h"

/* num_units of `unit` over the ranks. */
static qr_range share(int64_t num_units, int64_t unit, int rank, int size)
{
    const int64_t each = num_units / size, more = num_units % size;
    const int64_t first = rank * each + (rank < more ? rank : more);
    return (qr_range){first * unit, (each + (rank < more)) * unit};
}

qr_range qr_shard_vocab(const qr_model_config *c, int rank, int size) { return share(c->vocab_size, 1, rank, size); }

qr_range qr_shard_kv_heads(const qr_model_config *c, int rank, int size)
{
    return share(c->num_kv_heads, 1, rank, size);
}

quire_status qr_shard_plan(const qr_model_config *c, int rank, int size, qr_shard *out, quire_error *error)
{
    if (size > c->num_kv_heads || size > c->intermediate_size || size > c->vocab_size)
        return qr_fail(error, QUIRE_UNSUPPORTED,
                       "tensor_parallel_size %d: this model has %d KV head%s, and each rank "
                       "takes one at least",
                       size, c->num_kv_heads, c->num_kv_heads == 1 ? "" : "s");
    /* The MLP in superblocks of quantized types, or else in their smaller blocks, where there are enough of them. */
    int64_t unit = 256;
    while (unit > 1 && (c->intermediate_size % unit != 0 || c->intermediate_size / unit < size))
        unit = unit == 256 ? 32 : 1;
    out->kv_heads = qr_shard_kv_heads(c, rank, size);
    const int64_t group = c->num_heads / c->num_kv_heads;
    out->heads = (qr_range){out->kv_heads.first * group, out->kv_heads.count * group};
    out->mlp = share(c->intermediate_size / unit, unit, rank, size);
    out->vocab = qr_shard_vocab(c, rank, size);
    return QUIRE_OK;
}

int64_t qr_cut_rows(const qr_cut *cut) { return cut->rows[0].count + cut->rows[1].count + cut->rows[2].count; }

static void copy_rows(const qr_tensor_view *view, const qr_cut *cut, size_t row_bytes, uint8_t *out)
{
    const size_t block_len = (size_t)qr_dtype_block_len(view->dtype), view_row = qr_tensor_row_bytes(view);
    const size_t first = (size_t)cut->cols.first / block_len * (size_t)qr_dtype_block_bytes(view->dtype);
    for (int i = 0; i < 3; i++)
        for (int64_t r = cut->rows[i].first; r < cut->rows[i].first + cut->rows[i].count; r++, out += row_bytes)
            memcpy(out, (const uint8_t *)view->data + (size_t)r * view_row + first, row_bytes);
}

/* row: room for one of the view's */
static void copy_transposed(const qr_tensor_view *view, const qr_cut *cut, float *row, float *out)
{
    const size_t view_row = qr_tensor_row_bytes(view);
    for (int64_t k = 0; k < cut->cols.count; k++) {
        qr_dequantize(view->dtype, (const uint8_t *)view->data + (size_t)(cut->cols.first + k) * view_row, row,
                      qr_tensor_cols(view));
        float *at = out + k;
        for (int i = 0; i < 3; i++)
            for (int64_t r = 0; r < cut->rows[i].count; r++, at += cut->cols.count) *at = row[cut->rows[i].first + r];
    }
}

quire_status qr_cut_copy(const qr_tensor_view *view, const qr_cut *cut, bool transposed, qr_tensor_view *out,
                         quire_error *error)
{
    const qr_dtype dtype = transposed ? QR_F32 : view->dtype;
    const int block_len = qr_dtype_block_len(dtype);
    if (cut->cols.first % block_len != 0 || cut->cols.count % block_len != 0)
        return qr_fail(
            error, QUIRE_UNSUPPORTED,
            "tensor '%s' (%s) cannot be cut for tensor parallelism: columns %lld to %lld begin or end within "
            "a block of %d",
            view->name, qr_dtype_name(dtype), (long long)cut->cols.first,
            (long long)(cut->cols.first + cut->cols.count - 1), block_len);
    const size_t row_bytes = (size_t)(cut->cols.count / block_len) * (size_t)qr_dtype_block_bytes(dtype);
    const size_t bytes = row_bytes * (size_t)qr_cut_rows(cut);
    void *data = qr_malloc(bytes);
    float *row = transposed ? qr_malloc((size_t)qr_tensor_cols(view) * sizeof *row) : NULL;
    if (!data || (transposed && !row)) {
        qr_free(data);
        qr_free(row);
        return qr_fail_nomem(error, view->name, bytes);
    }
    if (transposed)
        copy_transposed(view, cut, row, data);
    else
        copy_rows(view, cut, row_bytes, data);
    qr_free(row);
    *out = (qr_tensor_view){.name = view->name,
                            .dtype = dtype,
                            .num_dims = 2,
                            .dims = {cut->cols.count, qr_cut_rows(cut), 1, 1},
                            .data = data,
                            .bytes = bytes};
    return QUIRE_OK;
}
