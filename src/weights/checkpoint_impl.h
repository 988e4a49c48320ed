/* checkpoint_impl: what the two readers (gguf.c, safetensors.c) fill and checkpoint.c serves.
 *
 *   maps      the mapped files; tensor data, strings and arrays point into them
 *   tensors   views, in file order, found by name through tensor_index
 *   meta      GGUF key-value pairs, found by key through meta_index
 *   files     a folder's JSON and text files read so far, guarded by lock
 *
 * Readers append to a checkpoint; on failure they leave it half filled and qr_checkpoint_close() cleans up.
 * Threads: one while opening; immutable after that, but for `files`. */
#ifndef QR_WEIGHTS_CHECKPOINT_IMPL_H
#define QR_WEIGHTS_CHECKPOINT_IMPL_H

#include <pthread.h>

#include "base/mem.h"
#include "weights/checkpoint.h"

/* ---- mapped files (map.c) */

typedef struct qr_map {
    const uint8_t *data;
    size_t bytes;
    bool borrowed; /* memory of a test, not ours to unmap */
} qr_map;

/* Map a regular file, read-only. An empty file has bytes 0. Returns OK | NOT_FOUND | IO. */
QUIRE_MUST_USE quire_status qr_map_open(const char *path, qr_map *out, quire_error *error);
void qr_map_close(qr_map *map);

/* ---- name → index (name_map.c): open addressing, XXH3, at most half full */

typedef struct qr_name_slot {
    const char *name; /* NULL: free; owned by the thing named */
    uint64_t hash;
    int idx;
} qr_name_slot;

typedef struct qr_name_map {
    qr_name_slot *slots; /* [num_slots], a power of two or 0 */
    size_t num_slots, num_used;
} qr_name_map;

int qr_name_map_reserve(qr_name_map *map, size_t extra);           /* 0 ok, -1 no memory (unchanged) */
bool qr_name_map_add(qr_name_map *map, const char *name, int idx); /* false: there already; room is reserved */
int qr_name_map_find(const qr_name_map *map, const char *name);    /* -1: none */
void qr_name_map_deinit(qr_name_map *map);

/* ---- the checkpoint */

struct qr_meta {
    char *key;
    qr_meta_type type, elem_type; /* elem_type: of arrays */
    uint64_t count;               /* elements of an array, else 1 */
    const uint8_t *data;          /* the value, or an array's first element */
    uint64_t *offsets;            /* [count] of an array of strings: where each begins (its length field) after data */
};

typedef struct qr_file {
    char *name;
    json_t *json; /* one of the two */
    qr_buf text;
} qr_file;

struct qr_checkpoint {
    char *path;
    bool is_gguf;
    qr_map *maps;
    int num_maps;
    qr_tensor_view *tensors;
    int num_tensors;
    qr_name_map tensor_index;
    qr_meta *meta;
    int num_meta;
    qr_name_map meta_index;
    qr_file *files;
    int num_files;
    pthread_mutex_t lock;
};

enum {
    QR_MAX_NAME_BYTES = 65535, /* a key or tensor name; GGUF's own limit */
    QR_MAX_META = 1 << 16,
    QR_MAX_TENSORS = 1 << 22,
    QR_MAX_FILES = 1 << 16 /* parts or shards */
};

/* ---- names of split files (names.c): STEM-00001-of-00003.gguf */

typedef struct qr_split_name {
    size_t stem_bytes;
    int part, num_parts; /* part counts from 1 */
} qr_split_name;

/* false when the name is not of that form */
bool qr_split_name_parse(const char *name, qr_split_name *out);
/* The name of another part; NULL: no memory. Free with qr_free(). */
char *qr_split_name_part(const char *name, const qr_split_name *split, int part);

/* ---- readers */

/* Read a GGUF file, and the other parts when it is the first of several. */
QUIRE_MUST_USE quire_status qr_gguf_read_file(qr_checkpoint *ckpt, const char *path, quire_error *error);
/* The same from memory that outlives the checkpoint; no splits. For tests and fuzzing. */
QUIRE_MUST_USE quire_status qr_gguf_read_memory(qr_checkpoint *ckpt, const uint8_t *data, size_t bytes,
                                                quire_error *error);

/* Read the safetensors of the checkpoint's folder: the index's shards, else `only_file` (NULL: none). */
QUIRE_MUST_USE quire_status qr_safetensors_read_folder(qr_checkpoint *ckpt, const char *only_file, quire_error *error);
/* One safetensors file from memory that outlives the checkpoint. For tests and fuzzing. */
QUIRE_MUST_USE quire_status qr_safetensors_read_memory(qr_checkpoint *ckpt, const uint8_t *data, size_t bytes,
                                                       quire_error *error);

/* ---- JSON and text of a folder (folder.c) */

/* Parse with jansson's flags; FORMAT names path, line and column. */
QUIRE_MUST_USE quire_status qr_json_parse(const char *text, size_t bytes, size_t flags, const char *path, json_t **out,
                                          quire_error *error);
void qr_folder_deinit(qr_checkpoint *ckpt);

/* ---- building a checkpoint (checkpoint.c) */

/* An empty checkpoint: path is copied. NOMEM leaves *out alone. */
QUIRE_MUST_USE quire_status qr_checkpoint_create(const char *path, qr_checkpoint **out, quire_error *error);
/* Append a mapped file; on failure the caller still owns it. */
QUIRE_MUST_USE quire_status qr_checkpoint_add_map(qr_checkpoint *ckpt, const qr_map *map, quire_error *error);
/* Make room for num more tensors. */
QUIRE_MUST_USE quire_status qr_checkpoint_reserve_tensors(qr_checkpoint *ckpt, uint64_t num, quire_error *error);
/* Check and append one tensor; room is reserved.
 *   file      for messages
 *   name      [name_bytes], copied
 *   t         dtype, num_dims and dims (unused ones 1) are read
 *   section   [section_bytes] the file's tensor data, of which the tensor takes what its shape says from `offset` on
 * FORMAT when the name is empty, overlong, holds a NUL or is taken, when a dimension is below 1, the shape overflows
 * or does not divide into blocks, or the data is not inside the section. */
QUIRE_MUST_USE quire_status qr_checkpoint_add_tensor(qr_checkpoint *ckpt, const char *file, const char *name,
                                                     size_t name_bytes, const qr_tensor_view *t, const uint8_t *section,
                                                     uint64_t section_bytes, uint64_t offset, quire_error *error);

/* Bytes of a file as text fit for a message: printable ASCII and UTF-8's upper half, at most 100 bytes, "..." after. */
typedef struct qr_quoted {
    char text[112];
} qr_quoted;
qr_quoted qr_quote(const char *bytes, size_t num_bytes);

#endif
