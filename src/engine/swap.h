/* swap: host memory for the KV blocks of preempted groups.
 *
 *   KV pool  block ──swap_out──► swap space  slot      in anonymous memory, or in an unnamed file that is mapped
 *            block ◄──swap_in───             slot      (O_TMPFILE: gone with the process, whatever happens)
 *
 * Which block goes where is the scheduler's choice; this only moves bytes. Its speed is measured as it works, for
 * preemption mode auto.
 * Threads: engine thread.  Source: Kwon et al., SOSP 2023, section 4.5. */
#ifndef QR_ENGINE_SWAP_H
#define QR_ENGINE_SWAP_H

#include "backend/backend.h"
#include "kv/block_table.h"

typedef struct qr_swap {
    qr_backend *be;
    qr_kv_cache *cache;
    size_t block_bytes, bytes;
    uint8_t *slots; /* [num_blocks] of block_bytes; NULL: no swap space */
    double us_per_block;
} qr_swap;

/* num_blocks slots; path: folder for the file, NULL: memory. The file's space is taken at once, so that a full disk is
 * an error here and not later.  OK | NOMEM | IO; on failure nothing stays open. */
QUIRE_MUST_USE quire_status qr_swap_init(qr_swap *swap, qr_backend *be, qr_kv_cache *cache, size_t block_bytes,
                                         int64_t num_blocks, const char *path, quire_error *error);
void qr_swap_deinit(qr_swap *swap); /* a zeroed one is fine */

/* Copy pool blocks (src) to slots (dst), or slots (src) to pool blocks (dst). */
void qr_swap_out(qr_swap *swap, const qr_block_copy *pairs, int num_pairs);
void qr_swap_in(qr_swap *swap, const qr_block_copy *pairs, int num_pairs);

#endif
