/* trace: requests on record: lengths, and where known arrival times and shared prefixes.
 *
 *   CSV    prompt_tokens,output_tokens                    lengths alone
 *   CSV    TIMESTAMP,ContextTokens,GeneratedTokens        Azure LLM inference trace 2023
 *   JSONL  {"timestamp": MS, "input_length": N, "output_length": N, "hash_ids": [...]}    Mooncake: prompts whose i-th
 *          ids and all before them are equal have equal tokens in block i of 512
 *
 * The format is recognised by the first line. Rows with a length below 1 are skipped (Azure's has some); anything else
 * that is wrong is an error with its line number. Times are seconds from the first row and never go backwards.
 * Threads: any, once made. Sources: Azure Public Dataset (Patel et al., ISCA 2024); Qin et al., FAST 2025. */
#ifndef QR_SIM_TRACE_H
#define QR_SIM_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { QR_SIM_HASH_TOKENS = 512, QR_SIM_MAX_LENGTH = 1 << 24 };

/* A request of which every token is known (schedule.h). */
typedef struct qr_sim_script {
    int num_seqs;
    int32_t max_output_tokens; /* that it might have had */
    int32_t *prompt;           /* [the row's prompt_tokens] */
    int32_t **outputs;         /* [num_seqs] */
    int32_t *num_outputs;      /* [num_seqs] >= 1 */
    uint64_t extra_key;        /* as in qr_request_params */
    bool no_prefix_read;
} qr_sim_script;

typedef struct qr_sim_row {
    double arrival; /* seconds */
    int32_t prompt_tokens, output_tokens;
    int64_t first_hash; /* into hash_ids; num_hashes 0: none */
    int32_t num_hashes;
    const qr_sim_script *script; /* NULL but in replays */
} qr_sim_row;

typedef struct qr_sim_trace {
    qr_sim_row *rows; /* [num_rows] */
    size_t num_rows, max_rows;
    int32_t *hash_ids; /* [num_hash_ids] */
    size_t num_hash_ids, max_hash_ids;
    bool has_arrivals;
} qr_sim_trace;

/* `name` is for messages. OK | FORMAT | NOMEM; *out is empty on failure. */
QUIRE_MUST_USE quire_status qr_sim_trace_parse(const char *name, const char *text, size_t bytes, qr_sim_trace *out,
                                               quire_error *error);
void qr_sim_trace_deinit(qr_sim_trace *trace); /* an empty one is fine */

/* Keep rows with both lengths at least min_tokens, the prompt at most max_prompt and both at most max_total; 0: no
 * limit. The PagedAttention paper keeps 4, 1024, 2048. */
void qr_sim_trace_filter(qr_sim_trace *trace, int32_t min_tokens, int32_t max_prompt, int64_t max_total);
double qr_sim_trace_mean_prompt(const qr_sim_trace *trace); /* 0 of nothing */
double qr_sim_trace_mean_output(const qr_sim_trace *trace);

/* ShareGPT lengths, part of the program (data/traces/README.md), not filtered. */
QUIRE_MUST_USE quire_status qr_sim_trace_sharegpt(qr_sim_trace *out, quire_error *error);

/* The same, scaled to the means of the PagedAttention paper after its filter, 161.31 in and 337.99 out (our sample's
 * are 89.50 and 335.26), and filtered. */
QUIRE_MUST_USE quire_status qr_sim_trace_sharegpt_paper(qr_sim_trace *out, quire_error *error);

/* A shape of lengths: log-normal, cut to [min, max], with exactly these means (to 0.1 %). */
typedef struct qr_sim_shape {
    double mean_prompt, cv_prompt; /* coefficient of variation */
    double mean_output, cv_output;
    int32_t min_tokens, max_prompt, max_output;
} qr_sim_shape;

/* Alpaca-like: the paper's means, 19.31 in and 58.45 out; the spread is an assumption (its figure 11b). */
extern const qr_sim_shape qr_sim_shape_alpaca;
/* Sentences to translate, WMT16 English to German: means near the data set's; an assumption. */
extern const qr_sim_shape qr_sim_shape_translation;

/* num_rows rows at even quantiles of the shape, prompts and outputs paired by `seed`. OK | NOMEM */
QUIRE_MUST_USE quire_status qr_sim_trace_from_shape(const qr_sim_shape *shape, size_t num_rows, uint64_t seed,
                                                    qr_sim_trace *out, quire_error *error);

/* Chats, as the paper's chatbot has them: rows of `single` follow each other as turns of one chat; the prompt is the
 * history and the last question, of which the last max_prompt tokens are kept. Turns before the last: geometric with
 * mean mean_turns (an assumption; the data set's chats have about 3.5 more). OK | NOMEM */
QUIRE_MUST_USE quire_status qr_sim_trace_chats(const qr_sim_trace *single, double mean_turns, int32_t max_prompt,
                                               int32_t max_output, size_t num_rows, uint64_t seed, qr_sim_trace *out,
                                               quire_error *error);

#endif
