/* Any bytes as a GGUF file with a tokenizer: an error, or a tokenizer that encodes and decodes a text. */
#include <stdint.h>

#include "text/tokenizer.h"
#include "weights/checkpoint_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const qr_tokenizer *tok)
{
    static const char text[] = "ab  w\xC3\xB6rld <s> 123\n\n'll a\xCC\x81 \xF0\x9F\x91\xA8 \xE2\x96\x81x\xFF";
    quire_error error;
    int32_t *ids = NULL;
    size_t num = 0, bytes;
    int num_stop;
    const int32_t *stop = qr_tokenizer_stop_ids(tok, &num_stop);
    for (int i = 0; i < num_stop; i++)
        if (stop[i] < 0 || stop[i] >= qr_tokenizer_vocab_size(tok)) __builtin_trap();
    for (int32_t id = -1; id <= qr_tokenizer_vocab_size(tok); id++) (void)qr_tokenizer_token(tok, id, &bytes);
    if (qr_tokenizer_encode(tok, text, sizeof text - 1, true, true, &ids, &num, &error) != QUIRE_OK) __builtin_trap();
    qr_buf out = {0};
    qr_detok detok;
    qr_detok_init(&detok, tok, true);
    for (size_t i = 0; i < num; i++) {
        if (ids[i] < 0 || ids[i] >= qr_tokenizer_vocab_size(tok)) __builtin_trap();
        if (qr_detok_push(&detok, ids[i], &out) != QUIRE_OK) __builtin_trap();
    }
    if (qr_detok_flush(&detok, &out) != QUIRE_OK) __builtin_trap();
    qr_free(out.data);
    qr_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    quire_error error;
    qr_checkpoint *ckpt;
    qr_tokenizer *tok = NULL;
    if (qr_checkpoint_create("fuzz", &ckpt, &error) != QUIRE_OK) return 0;
    if (qr_gguf_read_memory(ckpt, data, size, &error) == QUIRE_OK &&
        qr_tokenizer_create(ckpt, &tok, &error) == QUIRE_OK)
        use(tok);
    qr_tokenizer_destroy(tok);
    qr_checkpoint_close(ckpt);
    return 0;
}
