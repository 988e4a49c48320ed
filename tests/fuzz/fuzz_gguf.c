/* Any bytes as a GGUF file: an error, or a checkpoint whose every value and tensor byte can be read. */
#include "weights/checkpoint_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_value(const qr_meta *meta)
{
    int64_t i;
    double d;
    bool flag;
    qr_string_view s;
    qr_meta_type type;
    uint64_t count = 0;
    volatile char sink = qr_meta_key(meta)[0];
    (void)qr_meta_i64(meta, &i);
    (void)qr_meta_f64(meta, &d);
    (void)qr_meta_bool(meta, &flag);
    if (qr_meta_str(meta, &s) && s.len > 0) sink = s.data[s.len - 1];
    (void)qr_meta_array(meta, &type, &count);
    for (uint64_t k = 0; k <= count; k++) {
        (void)qr_meta_array_i64(meta, k, &i);
        (void)qr_meta_array_f64(meta, k, &d);
        if (qr_meta_array_str(meta, k, &s) && s.len > 0) sink = s.data[s.len - 1];
    }
    (void)sink;
}

static void read_tensor(const qr_checkpoint *ckpt, const qr_tensor_view *t)
{
    float values[256];
    if (qr_checkpoint_find(ckpt, t->name) != t) __builtin_trap();
    if ((size_t)qr_tensor_rows(t) * qr_tensor_row_bytes(t) != t->bytes) __builtin_trap();
    int len = qr_dtype_block_len(t->dtype), bytes = qr_dtype_block_bytes(t->dtype);
    qr_dequantize(t->dtype, t->data, values, len);
    qr_dequantize(t->dtype, (const uint8_t *)t->data + t->bytes - bytes, values, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qr_checkpoint *ckpt;
    quire_error error;
    if (qr_checkpoint_create("fuzz", &ckpt, &error) != QUIRE_OK) return 0;
    if (qr_gguf_read_memory(ckpt, data, size, &error) == QUIRE_OK) {
        for (int i = 0; i < qr_checkpoint_num_meta(ckpt); i++) read_value(qr_checkpoint_meta_at(ckpt, i));
        for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) read_tensor(ckpt, qr_checkpoint_tensor(ckpt, i));
    }
    qr_checkpoint_close(ckpt);
    return 0;
}
