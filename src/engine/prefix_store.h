/* prefix_store: the prefix cache's second tier, in a file that outlives the process.
 *
 *   put ──► ring of buffers ──► writer thread ──► prefix_file            the engine never waits for the disk;
 *   get ◄── ring, or file, checksum verified                             a full ring drops the block: a cache may
 *
 *   by key     key ─► slot ─► slot            in memory, rebuilt from the entries at open
 *   order      oldest ─► ... ─► newest slot   by the time of the last put; a full store gives up the oldest
 *
 * A block is put when the pool evicts it, a sequence's end before its beginning, so ends are given up first; a block
 * that is here already only becomes the newest. get() changes nothing: the block is in the pool then and is put again
 * when it is evicted.
 *
 * A hit is verified three times: the entry has this key, parent, extra key and tokens; the entry was read whole; the
 * payload has its checksum. Anything else is a miss, and the slot is given up.
 * Allocation: all at open. Threads: one caller (the engine's); the writer thread is inside. */
#ifndef QR_ENGINE_PREFIX_STORE_H
#define QR_ENGINE_PREFIX_STORE_H

#include "engine/prefix_file.h"

typedef struct qr_prefix_store qr_prefix_store;

typedef struct qr_prefix_store_stats {
    int32_t num_slots, num_blocks; /* room for, and held */
    uint64_t num_written;          /* blocks, since open */
    uint64_t num_dropped;          /* not kept: the ring was full, or the write failed */
    uint64_t num_broken;           /* found, but not whole */
} qr_prefix_store_stats;

/* As qr_prefix_file_open; also starts the writer. ring_bytes: memory for blocks on their way to the file. */
QUIRE_MUST_USE quire_status qr_prefix_store_open(const qr_prefix_file_options *options, size_t ring_bytes,
                                                 qr_prefix_store **out, quire_error *error);
/* Write what is on its way, as long as qr_prefix_store_save allows (else 10 s), and the order of use. NULL is fine. */
void qr_prefix_store_close(qr_prefix_store *store);

/* The secret that keys must be drawn with, QR_STORE_SECRET_BYTES. */
const uint8_t *qr_prefix_store_secret(const qr_prefix_store *store);

/* Keep a block: fill the returned buffer [block_bytes], then call put_done. NULL: it is here already, or is not kept.
 */
void *qr_prefix_store_put(qr_prefix_store *store, const qr_block_content *content);
void qr_prefix_store_put_done(qr_prefix_store *store);
/* A block's bytes, valid until the next call; NULL: a miss. */
const void *qr_prefix_store_get(qr_prefix_store *store, const qr_block_content *content);

/* From now on put waits for room in the ring, until timeout_us from now; each block that is put counts as older than
 * the one before (the end of the engine's life, newest first). */
void qr_prefix_store_save(qr_prefix_store *store, int64_t timeout_us);
/* Forget everything, in the file too. Waits for the writer. */
void qr_prefix_store_forget(qr_prefix_store *store);

void qr_prefix_store_get_stats(const qr_prefix_store *store, qr_prefix_store_stats *out);
/* Recount lists and index: OK | INVALID with what is wrong. */
QUIRE_MUST_USE quire_status qr_prefix_store_check(const qr_prefix_store *store, quire_error *error);

#endif
