/* batch: a file of requests, JSON Lines in, JSON Lines out, in the same order.
 *
 *   requests.jsonl ─► read, submit ─► [ window of jobs under way, oldest first ] ─► oldest finished: write ─► results
 *
 * The window bounds the memory: a file of any length takes the same. Only the oldest job is waited for; the engine
 * runs all of them. A line that is bad in any way becomes a result with "error"; the others go on.
 * Threads: the main thread only. */
#ifndef QR_CLI_BATCH_H
#define QR_CLI_BATCH_H

#include "cli/cli.h"
#include "server/token_text.h"

/* Run args->file into args->out. QR_CLI_OK, or QR_CLI_FAILED when any line failed (said at the end). */
int qr_cli_run_batch(qr_cli_args *args, quire_model *model, quire_engine *engine, qr_token_text *token_text);

/* The next line without its end. 1: read; 0: end of file; -1: no memory. Of a line longer than max_bytes the rest is
 * skipped and *out_too_long set. */
int qr_cli_read_line(FILE *file, size_t max_bytes, qr_buf *out, bool *out_too_long);

#endif
