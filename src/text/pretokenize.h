/* pretokenize: the "pre_tokenizer" of a tokenizer.json: stages that cut text into words, each within the pieces of
 * the one before.
 *
 *   Sequence[Digits, ByteLevel]  ─►  stages: split at digits │ split by GPT-2's regex │ (bytes to GPT-2's alphabet)
 *   "abc 12"  ─►  "abc " "1" "2"  ─►  "abc" " " "1" "2"
 *
 * Known: ByteLevel, Split, Digits, Punctuation, Metaspace, Whitespace, WhitespaceSplit, CharDelimiterSplit, Sequence.
 * When ByteLevel comes last its mapping is left out and words are handed over as raw bytes (raw_bytes): the BPE
 * model knows which byte each character stands for.
 * Threads: immutable once built; each thread brings its own scratch.
 * Source: `tokenizers` pre_tokenizers/, tokenizer/normalizer.rs split. */
#ifndef QR_TEXT_PRETOKENIZE_H
#define QR_TEXT_PRETOKENIZE_H

#include <jansson.h>

#include "base/mem.h"
#include "text/regex.h"

enum { QR_PRETOKENIZER_MAX_STAGES = 16 };

typedef enum qr_split_behavior {
    QR_SPLIT_REMOVED,
    QR_SPLIT_ISOLATED,
    QR_SPLIT_CONTIGUOUS,
    QR_SPLIT_MERGED_WITH_PREVIOUS,
    QR_SPLIT_MERGED_WITH_NEXT
} qr_split_behavior;

typedef struct qr_pretokenize_stage {
    enum {
        QR_STAGE_REGEX,        /* split where the regex matches */
        QR_STAGE_NUMERIC,      /* split at numeric characters */
        QR_STAGE_PUNCT,        /* split at punctuation */
        QR_STAGE_SPACE,        /* split at white space */
        QR_STAGE_CHAR,         /* split at `replacement` */
        QR_STAGE_WORD_STARTS,  /* split before every `replacement` that does not follow another one */
        QR_STAGE_PREFIX_SPACE, /* put a space in front unless there is one */
        QR_STAGE_BYTE_LEVEL,   /* bytes to the characters of GPT-2's alphabet */
        QR_STAGE_METASPACE     /* spaces to `replacement`, one put in front as `prepend` says */
    } kind;
    qr_split_behavior behavior;
    bool invert; /* what does not match counts as match */
    enum { QR_PREPEND_ALWAYS, QR_PREPEND_FIRST, QR_PREPEND_NEVER } prepend;
    char replacement[5]; /* one character, NUL-terminated */
    int replacement_bytes;
    qr_regex *regex;
} qr_pretokenize_stage;

typedef struct qr_pretokenizer {
    int num_stages;
    qr_pretokenize_stage stages[QR_PRETOKENIZER_MAX_STAGES];
    bool byte_level; /* words end up in GPT-2's byte alphabet */
    bool raw_bytes;  /* ... and are handed over as raw bytes instead */
} qr_pretokenizer;

/* From the JSON value (NULL or null: no stages). OK | FORMAT | UNSUPPORTED | NOMEM; deinit in any case. */
QUIRE_MUST_USE quire_status qr_pretokenizer_init(qr_pretokenizer *pre, const json_t *json, quire_error *error);
void qr_pretokenizer_deinit(qr_pretokenizer *pre); /* a zeroed one is fine */
/* Add a last stage that cuts before every run of `replacement`; for vocabularies where no merge crosses that place,
 * so that ids stay the same and a long text is no single word. */
void qr_pretokenizer_add_word_starts(qr_pretokenizer *pre, const char *replacement);

typedef struct qr_pretokenize_scratch {
    qr_regex_scratch *regex;
    struct {
        qr_buf text, shadow;
    } stages[QR_PRETOKENIZER_MAX_STAGES + 1];
} qr_pretokenize_scratch;
void qr_pretokenize_scratch_deinit(qr_pretokenize_scratch *scratch); /* frees all but `regex` */

typedef quire_status (*qr_word_fn)(void *ctx, const char *word, size_t word_bytes, quire_error *error);

/* Call fn for each word of text (valid UTF-8) in order; words are not empty and live during the call.
 *   at_start  text begins where the whole input begins (Metaspace's prepend scheme "first")
 *   scratch   zero-initialised, with `regex` set, kept from call to call */
QUIRE_MUST_USE quire_status qr_pretokenizer_run(const qr_pretokenizer *pre, qr_pretokenize_scratch *scratch,
                                                const char *text, size_t text_bytes, bool at_start, qr_word_fn fn,
                                                void *ctx, quire_error *error);

#endif
