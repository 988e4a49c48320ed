/* checkpoint: one interface over GGUF files and Hugging Face safetensors folders, memory-mapped, read-only.
 *
 *   path ──► *.gguf            metadata (key → value), tensors; split files (-00001-of-00003) are one checkpoint
 *        └─► folder            config.json, tokenizer.json, ... as JSON; *.safetensors as tensors
 *
 * Every length, offset and dimension is checked against the file before use: a corrupt or hostile file gets an
 * error that says what and where, never a crash.  Tensor data stays in the mapping until qr_checkpoint_close().
 * Threads: a checkpoint is immutable after open. */
#ifndef QR_WEIGHTS_CHECKPOINT_H
#define QR_WEIGHTS_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>

#include "tensor/tensor.h"

typedef struct qr_checkpoint qr_checkpoint;

/* `path`: GGUF file, checkpoint folder, or the name of a pulled model.
 * A GGUF without tensors (vocabulary only) and a folder without *.safetensors are fine: num_tensors is 0. */
QUIRE_MUST_USE quire_status qr_checkpoint_open(const char *path, qr_checkpoint **out, quire_error *error);
void qr_checkpoint_close(qr_checkpoint *ckpt); /* NULL is fine */

bool qr_checkpoint_is_gguf(const qr_checkpoint *ckpt);
const char *qr_checkpoint_path(const qr_checkpoint *ckpt); /* resolved */

int qr_checkpoint_num_tensors(const qr_checkpoint *ckpt);
const qr_tensor_view *qr_checkpoint_tensor(const qr_checkpoint *ckpt, int idx);
const qr_tensor_view *qr_checkpoint_find(const qr_checkpoint *ckpt, const char *name); /* NULL: none; hashed */

/* ---- GGUF metadata (none for a folder) */

typedef enum qr_meta_type {
    QR_META_U8,
    QR_META_I8,
    QR_META_U16,
    QR_META_I16,
    QR_META_U32,
    QR_META_I32,
    QR_META_F32,
    QR_META_BOOL,
    QR_META_STRING,
    QR_META_ARRAY,
    QR_META_U64,
    QR_META_I64,
    QR_META_F64
} qr_meta_type; /* GGUF's own ids */

typedef struct qr_string_view {
    const char *data; /* not NUL-terminated */
    size_t len;
} qr_string_view;

typedef struct qr_meta qr_meta;
int qr_checkpoint_num_meta(const qr_checkpoint *ckpt);
const qr_meta *qr_checkpoint_meta_at(const qr_checkpoint *ckpt, int idx);
const qr_meta *qr_checkpoint_meta(const qr_checkpoint *ckpt, const char *key); /* NULL: none */
const char *qr_meta_key(const qr_meta *meta);                                  /* NUL-terminated */
qr_meta_type qr_meta_value_type(const qr_meta *meta);
/* Scalars, converted; false when the value is not of that kind or out of range. */
bool qr_meta_i64(const qr_meta *meta, int64_t *out);
bool qr_meta_f64(const qr_meta *meta, double *out); /* integers too */
bool qr_meta_bool(const qr_meta *meta, bool *out);
bool qr_meta_str(const qr_meta *meta, qr_string_view *out);
/* Arrays; elements by index. */
bool qr_meta_array(const qr_meta *meta, qr_meta_type *elem_type, uint64_t *count);
bool qr_meta_array_str(const qr_meta *meta, uint64_t idx, qr_string_view *out); /* O(1): offsets are indexed at open */
bool qr_meta_array_i64(const qr_meta *meta, uint64_t idx, int64_t *out);
bool qr_meta_array_f64(const qr_meta *meta, uint64_t idx, double *out);

/* ---- files of a folder (none for a GGUF) */

/* Parsed "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", ...: loaded on first
 * use, cached, owned by the checkpoint. OK with *out NULL when the file does not exist; FORMAT when it is no JSON
 * (file, line, column). Strings may hold NUL (JSON_ALLOW_NUL). */
QUIRE_MUST_USE quire_status qr_checkpoint_json(const qr_checkpoint *ckpt, const char *file, const json_t **out,
                                               quire_error *error);
/* A text file ("chat_template.jinja"), NUL-terminated, cached, owned by the checkpoint; *out NULL when absent. */
QUIRE_MUST_USE quire_status qr_checkpoint_text(const qr_checkpoint *ckpt, const char *file, const char **out,
                                               size_t *out_bytes, quire_error *error);

#endif
