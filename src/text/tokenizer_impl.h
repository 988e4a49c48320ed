/* tokenizer_impl: what tokenizer.c, its two loaders and the detokenizer share.
 *
 *   tokenizer_gguf.c ──┐                             ┌── tokenizer.c   encode
 *                      ├─► struct qr_tokenizer ──────┤
 *   tokenizer_json.c ──┘   (immutable from here on)  └── detok.c       decode
 *
 * A loader fills vocab, the pipeline and the texts, then qr_tokenizer_finish() checks and completes them. */
#ifndef QR_TEXT_TOKENIZER_IMPL_H
#define QR_TEXT_TOKENIZER_IMPL_H

#include <jansson.h>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

enum { QR_TOKENIZER_MAX_STOP_IDS = 32, QR_TOKENIZER_MAX_AROUND = 16 };

typedef struct qr_decoder {
    bool byte_level;    /* characters of GPT-2's alphabet are bytes */
    bool byte_fallback; /* <0xNN> tokens are bytes */
    bool separate;      /* no decoder at all: tokens are joined by spaces */
    bool metaspace;     /* `from` is dropped within the first token, unless it is kept as a space */
    char from[8];       /* text that `to` stands for, "" for none: "▁" and " " */
    int from_bytes;
    char to[8];
    int to_bytes;
    char strip[5]; /* one character, of which up to num_strip are dropped at the very start */
    int strip_bytes;
    int num_strip;
} qr_decoder;

struct qr_tokenizer {
    qr_vocab vocab;
    qr_normalizer normalizer;
    qr_pretokenizer pre;
    qr_bpe bpe;
    qr_decoder decoder;
    qr_added_tokens raw, normalized; /* looked for before and after normalizing */
    int32_t before[QR_TOKENIZER_MAX_AROUND], after[QR_TOKENIZER_MAX_AROUND]; /* add_special: around the text's ids */
    int num_before, num_after;
    int32_t bos_id, eos_id; /* -1: none */
    int32_t stop_ids[QR_TOKENIZER_MAX_STOP_IDS];
    int num_stop_ids;
    char *bos_text, *eos_text; /* never NULL once finished */
    char *chat_template;       /* NULL: none */
    char name[64];             /* of the pre-tokenizer, for people */
};

/* From GGUF metadata / from the files of a folder; each takes a zeroed tokenizer and leaves cleaning to the caller. */
QUIRE_MUST_USE quire_status qr_tokenizer_load_gguf(qr_tokenizer *tok, const qr_checkpoint *ckpt, quire_error *error);
/* `config`, `generation`, `model` (tokenizer_config.json, generation_config.json, config.json) and chat_template
 * (chat_template.jinja) may be NULL. */
QUIRE_MUST_USE quire_status qr_tokenizer_load_json(qr_tokenizer *tok, const json_t *tokenizer, const json_t *config,
                                                   const json_t *generation, const json_t *model,
                                                   const char *chat_template, quire_error *error);
/* The same as a tokenizer of its own, for tests: what qr_tokenizer_create does for a folder. */
QUIRE_MUST_USE quire_status qr_tokenizer_create_json(const json_t *tokenizer, const json_t *config,
                                                     const json_t *generation, const json_t *model,
                                                     const char *chat_template, qr_tokenizer **out, quire_error *error);

/* The parts of a tokenizer.json that the GGUF loader uses too (with built-in JSON). NULL or null: none. */
QUIRE_MUST_USE quire_status qr_tokenizer_set_decoder(qr_tokenizer *tok, const json_t *json, quire_error *error);

/* A token that is cut out of the text: sets its text and flags in the vocabulary and files it for matching.
 * The normalizer must be there already when `normalized`. */
typedef struct qr_added_spec {
    int64_t id;
    const char *text;
    size_t text_bytes;
    bool special, lstrip, rstrip, single_word, normalized;
} qr_added_spec;
QUIRE_MUST_USE quire_status qr_tokenizer_add_token(qr_tokenizer *tok, const qr_added_spec *spec, quire_error *error);
void qr_tokenizer_add_stop_id(qr_tokenizer *tok, int64_t id); /* ids that are out of range or known are ignored */
QUIRE_MUST_USE quire_status qr_tokenizer_finish(qr_tokenizer *tok, quire_error *error);

#endif
