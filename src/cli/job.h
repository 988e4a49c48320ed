/* job: one generation request, from the fields of /v1/completions to the line of a result.
 *
 *   line of JSON + options of the command line ─► qr_api_request ─► tokens ─► quire_submit ─► outputs ─► qr_reply
 *
 * The fields, their limits and the answer's layout are the server's (server/protocol.h, server/reply.h), so that a
 * batch and the API cannot differ.
 * Threads: the main thread only. */
#ifndef QR_CLI_JOB_H
#define QR_CLI_JOB_H

#include "cli/cli.h"
#include "server/reply.h"

typedef struct qr_cli_job {
    int64_t index; /* which line of the batch, from 0 */
    qr_api_request request;
    char *echo_text; /* of a prompt given as ids; NULL: none */
    qr_reply reply;
    quire_request *handle; /* NULL: not submitted */
    bool failed;           /* `error` is the result */
    quire_error error;
} qr_cli_job;

/* Read a request: a JSON object's text, or NULL for one that the command line describes (--prompt or --ids; chat gives
 * neither and uses the sampling parameters alone). Fields that the text lacks come from the options. Without
 * max_tokens from either, sampling.max_tokens is -1. Free with qr_api_request_deinit(). */
QUIRE_MUST_USE quire_status qr_cli_parse_request(const qr_cli_args *args, int vocab_size, const char *text,
                                                 size_t text_bytes, qr_api_request *out, quire_error *error);

/* Tokenize the prompt of job->request and prepare the reply. On failure the job stays as it was but for the prompt's
 * ids; free it with qr_cli_job_deinit() in any case. */
QUIRE_MUST_USE quire_status qr_cli_job_prepare(qr_cli_job *job, const quire_model *model, qr_token_text *token_text,
                                               quire_error *error);
/* OK | QUEUE_FULL (try again later) | what quire_submit() returns */
QUIRE_MUST_USE quire_status qr_cli_job_submit(qr_cli_job *job, quire_engine *engine, quire_error *error);
void qr_cli_job_deinit(qr_cli_job *job); /* aborts what still runs */

/* Take the next output: OK, with *out_done set at the last one; TIMEOUT. An engine error fails the job. */
QUIRE_MUST_USE quire_status qr_cli_job_poll(qr_cli_job *job, int timeout_ms, bool *out_done);
/* The result as one line with its end: {"index":..,"choices":..,"usage":..} or {"index":..,"error":..}. */
void qr_cli_job_write(qr_cli_job *job, qr_emit *out);

#endif
