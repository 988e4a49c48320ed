/* Any config.json, a NUL, and any bytes as the safetensors beside it: for each matrix of codes an error, or its values.
 */
#include <string.h>

#include "base/mem.h"
#include "model/shard.h"
#include "weights/checkpoint_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As a matrix of this size and as two parts of it. */
static void read_matrix(const qr_checkpoint *ckpt, const qr_quantization *q, const qr_tensor_view *view, int64_t rows,
                        int64_t cols, qr_pool *pool)
{
    const qr_cut cuts[] = {{{{0, rows}}, {0, cols}}, {{{rows / 2, rows - rows / 2}}, {cols / 2, cols - cols / 2}}};
    for (int i = 0; i < 4; i++) {
        qr_tensor_view out;
        quire_error error;
        if (qr_quantized_read(ckpt, q, view, rows, cols, &cuts[i / 2], i % 2, pool, &out, &error) != QUIRE_OK) continue;
        if (out.bytes != qr_tensor_row_bytes(&out) * (size_t)qr_tensor_rows(&out)) __builtin_trap();
        qr_free((void *)(uintptr_t)out.data);
    }
}

static void read_all(const qr_checkpoint *ckpt, qr_pool *pool)
{
    qr_quantization q;
    quire_error error;
    char text[80];
    if (qr_quantization_read(ckpt, &q, &error) != QUIRE_OK) return;
    qr_quantization_describe(&q, text, sizeof text);
    for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) {
        const qr_tensor_view *t = qr_checkpoint_tensor(ckpt, i);
        (void)qr_quantization_num_values(&q, t);
        if (t->dtype < QR_NUM_DTYPES) continue;
        const int64_t r = qr_tensor_rows(t), c = qr_tensor_cols(t);
        read_matrix(ckpt, &q, t, r, c, pool);     /* bytes */
        read_matrix(ckpt, &q, t, c, r * 8, pool); /* packed along the inputs, as gptq and compressed-tensors do, */
        read_matrix(ckpt, &q, t, r, c * 8, pool);
        read_matrix(ckpt, &q, t, c, r * 4, pool);
        read_matrix(ckpt, &q, t, r, c * 4, pool);
        read_matrix(ckpt, &q, t, c * 8, r, pool); /* or the outputs, as awq does */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static qr_pool *pool;
    static const char name[] = "config.json";
    const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
    qr_checkpoint *ckpt;
    quire_error error;
    if (!end || (!pool && qr_pool_create(1, &pool, &error) != QUIRE_OK)) return 0;
    if (qr_checkpoint_create("fuzz", &ckpt, &error) != QUIRE_OK) return 0;
    ckpt->files = qr_calloc(1, sizeof *ckpt->files); /* as if read */
    json_t *json = json_loadb((const char *)data, (size_t)(end - data), JSON_ALLOW_NUL, NULL);
    if (ckpt->files && json) {
        ckpt->files[0] = (qr_file){.name = qr_strdup(name), .json = json};
        ckpt->num_files = 1;
        if (ckpt->files[0].name &&
            qr_safetensors_read_memory(ckpt, end + 1, size - (size_t)(end + 1 - data), &error) == QUIRE_OK)
            read_all(ckpt, pool);
    } else {
        json_decref(json);
    }
    qr_checkpoint_close(ckpt);
    return 0;
}
