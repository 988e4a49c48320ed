/* request: a submitted request as the engine sees it, and the making of its outputs.
 *
 *   sampled token ─► detokenizer ─► pending text ─► stop strings ─► output ─► callback, or queue ─► quire_request_next
 *                                   held back: a tail that may become a stop string, half a character
 *
 * Life: created by quire_submit on the caller's thread with all memory that its steps need; worked on by the engine
 * thread alone; freed when both the engine and the caller have let go (num_refs). Polled outputs are copied into a
 * list that grows with what the caller has not fetched yet.
 * Threads: fields under "engine thread" belong to it; the queue has its own lock. */
#ifndef QR_ENGINE_REQUEST_H
#define QR_ENGINE_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/mem.h"
#include "engine/beam.h"
#include "engine/model_api.h"
#include "engine/speculate.h"
#include "sched/scheduler.h"

/* One sequence's output state (engine thread). */
typedef struct qr_output_seq {
    /* a cache line: what every token reads */
    _Alignas(QR_CACHE_LINE) qr_detok detok;
    qr_buf text;           /* decoded, not yet handed out; without stop strings and echo there is never any: no data */
    size_t stop_scan_from; /* stop strings may begin at this byte of text or later */
    int64_t last_token_us;
    int num_cached_tokens; /* of the prompt; once started */
    bool started;          /* the first output has been made */
    bool finished;

    double cumulative_logprob;
    qr_spec_seq spec;

    /* of a sequence that is chosen among: what its output will be, once it has finished */
    size_t text_bytes;
    quire_finish_reason reason;
    const char *stop_string;
    int32_t stop_token_id;
} qr_output_seq;

/* Log probabilities of the prompt, filled chunk by chunk (engine thread). */
typedef struct qr_prompt_logprobs {
    quire_token_logprobs *tokens; /* [num_prompt] */
    int32_t *top_ids;             /* [num_prompt, num_top] */
    float *top_logprobs;
} qr_prompt_logprobs;

typedef struct qr_queued_output qr_queued_output;

struct quire_request {
    /* what every token reads, in as few cache lines as it goes: qr_request_prefetch; immutable after submit */
    _Alignas(QR_CACHE_LINE) const quire_model *model;
    quire_sampling_params params; /* arrays point into copies owned by the request */
    /* the same, but what belongs to the engine thread as said */
    void (*on_output)(void *user, const quire_output *output);
    void *user;
    qr_request *sched_request; /* engine thread; NULL before it is added */
    qr_output_seq *seqs;       /* [num_seqs] engine thread */
    qr_beam_search *beams;     /* engine thread; NULL without beam search */
    int64_t first_token_us;    /* engine thread; 0 before */
    int num_prompt;
    int num_seqs;      /* that run: best_of, or n */
    int num_finished;  /* engine thread */
    bool chosen_among; /* outputs come whole at the end (final.c): best_of above n, beam search */

    /* immutable after submit */
    char *prompt_text; /* with echo, else NULL */
    size_t prompt_text_bytes;
    struct quire_engine *engine;
    void *param_copies;
    int max_output_tokens; /* >= 1: what the scheduler plans for */
    int priority;
    int32_t *prompt_ids;
    uint64_t extra_key, key;
    int64_t arrival_us;

    /* engine thread */
    int64_t first_scheduled_us;
    qr_prompt_logprobs prompt_logprobs;
    quire_request *next; /* inbox, and the list of live requests */
    quire_request *prev;

    atomic_int num_refs;
    atomic_bool abort_requested;
    atomic_bool *abort_pending; /* the engine's: some request wants to be aborted */

    /* polling */
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    qr_queued_output *first, *last, *current; /* current: what quire_request_next returned last */
    bool complete;                            /* the output with request_finished has been queued */
};

/* What the sampler found for one new token; top arrays may be NULL with num_top 0. */
typedef struct qr_new_token {
    int32_t token_id;
    const quire_token_logprobs *logprobs; /* NULL: not asked for */
} qr_new_token;

_Static_assert(offsetof(qr_output_seq, cumulative_logprob) == QR_CACHE_LINE &&
                   offsetof(quire_request, on_output) % QR_CACHE_LINE == 0 &&
                   offsetof(quire_request, prompt_text) % QR_CACHE_LINE == 0,
               "the parts that every token reads fill whole cache lines");

/* Check and copy the options; tokenize. See quire_submit for the statuses. max_model_len bounds prompt + output. */
QUIRE_MUST_USE quire_status qr_request_create(const quire_model *model, const quire_request_options *options,
                                              int max_model_len, quire_request **out, quire_error *error);
void qr_request_unref(quire_request *request);     /* frees with the last reference */
void qr_request_ask_abort(quire_request *request); /* any thread; the engine looks before its next step */

/* With method ngram: an index of each sequence's tokens, which begin with the prompt. Before the request is submitted.
 *   returns  OK | NOMEM (the request stays whole) */
QUIRE_MUST_USE quire_status qr_request_index_ngrams(quire_request *request, const qr_spec_config *config,
                                                    quire_error *error);

/* Ids that end a sequence of this request: the model's (unless ignore_eos). */
bool qr_request_is_eos(const quire_request *request, int32_t token_id);
bool qr_request_is_stop_token(const quire_request *request, int32_t token_id);

/* A token will soon be added to the request's sequence: fetch what that reads, without waiting for it. */
static inline void qr_request_prefetch(const quire_request *request, const qr_output_seq *seq)
{
    __builtin_prefetch(&request->params.max_tokens);
    __builtin_prefetch(&request->params.logprobs);
    __builtin_prefetch(&request->seqs);
    __builtin_prefetch(seq);
}

/* A token was drawn for a sequence; num_output_tokens counts it. Makes and delivers the output.
 *   text     with room for qr_request_max_token_text(), overwritten: for a sequence that holds no text back
 *   returns  the reason if the sequence is finished by it, else QUIRE_FINISH_NONE */
quire_finish_reason qr_request_add_token(quire_request *request, qr_output_seq *seq, qr_new_token token,
                                         int num_output_tokens, qr_buf *text);
/* Bytes of text that one token completes at most. */
size_t qr_request_max_token_text(const quire_model *model);
/* End a sequence without a new token (max_tokens 0). */
void qr_request_end_seq(quire_request *request, qr_output_seq *seq, int num_output_tokens, quire_finish_reason reason);
/* End all sequences that have not ended (abort, error). */
void qr_request_end_all(quire_request *request, quire_finish_reason reason, const char *error_message);

/* ---- for final.c */
void qr_request_fill_output(quire_request *request, qr_output_seq *seq, int num_output_tokens, quire_output *output);
void qr_request_deliver(quire_request *request, const quire_output *output);

/* ---- final.c: outputs that come whole */

/* All sequences of a best_of request have finished: deliver the best n. */
void qr_request_deliver_best(quire_request *request);
/* The beam search has ended: deliver its best n hypotheses. */
void qr_request_deliver_beams(quire_request *request);

#endif
