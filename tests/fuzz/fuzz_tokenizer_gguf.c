/* Any bytes as a GGUF file with a tokenizer: an error, or a tokenizer that encodes and decodes a text. */
#include <stdint.h>

#include "tokenizer_use.h"
#include "weights/checkpoint_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    quire_error error;
    qr_checkpoint *ckpt;
    qr_tokenizer *tok = NULL;
    if (qr_checkpoint_create("fuzz", &ckpt, &error) != QUIRE_OK) return 0;
    if (qr_gguf_read_memory(ckpt, data, size, &error) == QUIRE_OK &&
        qr_tokenizer_create(ckpt, &tok, &error) == QUIRE_OK && !use_tokenizer(tok))
        __builtin_trap(); /* the regexes are those that GGUF names, none is too costly */
    qr_tokenizer_destroy(tok);
    qr_checkpoint_close(ckpt);
    return 0;
}
