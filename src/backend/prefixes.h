/* prefixes: which requests of a batch begin with the same physical blocks, found once per step for all layers.
 *
 *   block tables   A  7 3 9 4        prefix_order    A C B    neighbours agree in as many first blocks as any two do
 *                  B  5 8            prefix_blocks   0 2 0    so many are the same as the request's before
 *                  C  7 3 6
 *
 * Backends read K and V of such blocks once for all (backend.h, attention).
 * Threads: a pure function.  Source: three-way radix quicksort, Bentley and Sedgewick, SODA 1997. */
#ifndef QR_BACKEND_PREFIXES_H
#define QR_BACKEND_PREFIXES_H

#include "backend/backend.h"

/* Sort the batch's requests by their block tables.
 *   num_known order and blocks have what was found for an earlier batch of so many requests, which stays if it is right
 *             for this one too, as from one step to the next it mostly is: each has a token more; 0: nothing yet
 *   order     [num_reqs] requests, to be the batch's prefix_order
 *   blocks    [num_reqs] blocks that order[i] has in common with order[i - 1], 0 for the first: its prefix_blocks
 *   cost      each table is read up to where it parts from the others; no allocation */
void qr_batch_find_prefixes(const qr_batch *batch, int block_size, int num_known, int32_t *order, int32_t *blocks);

#endif
