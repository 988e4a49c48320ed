/* Any bytes as a safetensors file: an error, or a checkpoint whose tensors fill the data section. */
#include "weights/checkpoint_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    qr_checkpoint *ckpt;
    quire_error error;
    if (qr_checkpoint_create("fuzz", &ckpt, &error) != QUIRE_OK) return 0;
    if (qr_safetensors_read_memory(ckpt, data, size, &error) == QUIRE_OK) {
        for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) {
            const qr_tensor_view *t = qr_checkpoint_tensor(ckpt, i);
            const uint8_t *bytes = t->data;
            float value;
            if (qr_checkpoint_find(ckpt, t->name) != t) __builtin_trap();
            if (bytes < data || bytes + t->bytes > data + size) __builtin_trap();
            if (t->dtype >= QR_NUM_DTYPES) continue; /* codes; fuzz_quantized */
            qr_dequantize(t->dtype, bytes + t->bytes - (size_t)qr_dtype_block_bytes(t->dtype), &value, 1);
        }
    }
    qr_checkpoint_close(ckpt);
    return 0;
}
