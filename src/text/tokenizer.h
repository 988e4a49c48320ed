/* tokenizer: text to token ids and back, token for token as Hugging Face `tokenizers` does it.
 *
 *   text ─► added tokens cut out ─► normalizer ─► pre-tokenizer (PCRE2) ─► BPE merges ─► ids ─► post-processor
 *
 * Built from a GGUF's tokenizer.ggml.* metadata or a folder's tokenizer.json (+ tokenizer_config.json).
 * Threads: immutable after create; encode from any thread. */
#ifndef QR_TEXT_TOKENIZER_H
#define QR_TEXT_TOKENIZER_H

#include "base/mem.h"
#include "weights/checkpoint.h"

typedef struct qr_tokenizer qr_tokenizer;

QUIRE_MUST_USE quire_status qr_tokenizer_create(const qr_checkpoint *ckpt, qr_tokenizer **out, quire_error *error);
void qr_tokenizer_destroy(qr_tokenizer *tok); /* NULL is fine */

/* Ids of text (any bytes; invalid UTF-8 becomes U+FFFD as Python's bytes.decode("utf-8", "replace") does).
 *   *out_ids  caller frees with qr_free.  Linear in text_bytes.
 *   Returns OK | NOMEM | UNSUPPORTED (above 64 MiB, or a regex of the file that backtracks too much) */
QUIRE_MUST_USE quire_status qr_tokenizer_encode(const qr_tokenizer *tok, const char *text, size_t text_bytes,
                                                bool add_special, bool parse_special, int32_t **out_ids,
                                                size_t *out_num_ids, quire_error *error);

int qr_tokenizer_vocab_size(const qr_tokenizer *tok); /* ids are 0..vocab_size-1 */
/* The token as written in the vocabulary, e.g. "Ġthe" or "<|im_end|>"; NULL outside the vocabulary. */
const char *qr_tokenizer_token(const qr_tokenizer *tok, int32_t id, size_t *out_bytes);
bool qr_tokenizer_is_special(const qr_tokenizer *tok, int32_t id); /* control and other special tokens */
int32_t qr_tokenizer_bos_id(const qr_tokenizer *tok);              /* -1: none */
int32_t qr_tokenizer_eos_id(const qr_tokenizer *tok);              /* -1: none */
/* Every id that ends generation (eos, and eot/eom and the generation_config's list where given). */
const int32_t *qr_tokenizer_stop_ids(const qr_tokenizer *tok, int *out_num);
/* Text of bos/eos as chat templates see it ("" when none); owned by the tokenizer. */
const char *qr_tokenizer_bos_text(const qr_tokenizer *tok);
const char *qr_tokenizer_eos_text(const qr_tokenizer *tok);
/* The model's chat template (tokenizer.chat_template, chat_template.jinja, tokenizer_config.json), or NULL. */
const char *qr_tokenizer_chat_template(const qr_tokenizer *tok);
/* A short description for `quire inspect`: "byte-level BPE, pre-tokenizer smollm, 49152 tokens, 48900 merges". */
void qr_tokenizer_describe(const qr_tokenizer *tok, char *out, size_t out_bytes);

/* ---- incremental detokenizer: never emits half a UTF-8 character; invalid bytes become U+FFFD, one for each
 * maximal invalid part (as Python's errors="replace"), or one for each byte where the bytes come from <0xNN> tokens.
 * The concatenation of everything pushed and flushed equals `tokenizers`' decode of the whole sequence, with one
 * exception: in a run of <0xNN> tokens that holds an invalid byte, `tokenizers` gives up the run's valid characters
 * too, which may long have been sent.
 * In place, no allocation except the growth of `out`. */
typedef struct qr_detok {
    const qr_tokenizer *tok;
    bool skip_special;
    bool at_start;           /* no token yet */
    unsigned char num_strip; /* leading spaces that SentencePiece decoders still take away */
    unsigned char num_pending;
    char pending[4]; /* an unfinished UTF-8 character */
} qr_detok;

void qr_detok_init(qr_detok *d, const qr_tokenizer *tok, bool skip_special);
/* Append what `id` completes to `out` (may be nothing). Unknown ids append nothing. OK | NOMEM */
QUIRE_MUST_USE quire_status qr_detok_push(qr_detok *d, int32_t id, qr_buf *out);
/* `id` (any number) will be pushed soon: fetch what that reads into the cache, without waiting for it. */
void qr_detok_prefetch(const qr_tokenizer *tok, int32_t id);
QUIRE_MUST_USE quire_status qr_detok_flush(qr_detok *d, qr_buf *out); /* pending bytes as U+FFFD */

#endif
