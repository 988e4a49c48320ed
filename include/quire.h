/* quire.h: serve large language models from paged memory. The complete public C API of libquire.
 *
 *   quire_model_open ──► quire_model ──► quire_engine_create ──► quire_engine (one engine thread)
 *      weights, tokenizer,   immutable,       KV block pool,          │ quire_submit (any thread)
 *      chat template         shareable        scheduler               ▼
 *                                              quire_request ──► outputs: callback or polling
 *
 * Conventions
 *   Status     every fallible call returns quire_status: 0 is OK, negative is an error with detail in
 *              the caller's quire_error (may be NULL), positive is an expected outcome that leaves the
 *              state unchanged (QUIRE_QUEUE_FULL: try again later).
 *   Strings    UTF-8. Input strings need only live during the call. Returned strings and arrays
 *              belong to the caller and are freed with quire_free(), unless stated otherwise.
 *   Options    structs are filled by their _init() function first, then changed field by field;
 *              zero-initialised structs are not valid options.
 *   Threads    every function may be called from any thread; exceptions are stated.
 *   Same bits  a request's tokens and logprobs depend on the model, the compute and KV dtypes and the
 *              request alone: not on other requests, chunking, block size, threads, preemption. */
#ifndef QUIRE_H
#define QUIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QUIRE_API __attribute__((visibility("default")))
#define QUIRE_MUST_USE __attribute__((warn_unused_result))
#else
#define QUIRE_API
#define QUIRE_MUST_USE
#endif

/* XX(name, value, text) */
#define QUIRE_STATUS_MAP(XX)                        \
    XX(OK, 0, "ok")                                 \
    XX(INVALID, -1, "invalid argument")             \
    XX(NOMEM, -2, "out of memory")                  \
    XX(IO, -3, "input/output error")                \
    XX(FORMAT, -4, "malformed data")                \
    XX(UNSUPPORTED, -5, "not supported")            \
    XX(DEVICE, -6, "device error")                  \
    XX(ABORTED, -7, "aborted")                      \
    XX(NOT_FOUND, -8, "not found")                  \
    XX(NO_BLOCKS, 1, "no free KV blocks")           \
    XX(QUEUE_FULL, 2, "request queue is full")      \
    XX(TIMEOUT, 3, "nothing within the time given") \
    XX(RANK_ENDED, 4, "rank 0 has closed the model")

typedef enum quire_status {
#define XX(name, value, text) QUIRE_##name = value,
    QUIRE_STATUS_MAP(XX)
#undef XX
} quire_status;

/* "ok", "invalid argument", ...; static storage. */
QUIRE_API const char *quire_status_text(quire_status status);

/* Detail of the last failure: one line that says what, where and, where possible, what to do next.
 * `param` names the offending option or request field, or is empty. */
typedef struct quire_error {
    char message[512];
    char param[64];
} quire_error;

QUIRE_API const char *quire_version(void); /* "0.1.0" */
QUIRE_API void quire_free(void *ptr);      /* frees what the API returned; NULL is fine */

/* ---- model ------------------------------------------------------------------------------------ */

typedef struct quire_model quire_model;

typedef struct quire_model_options {
    /* "auto" (packed low-bit weights x int8 where the file is quantized) | "float32" | "tensor" (CUDA tensor cores) */
    const char *compute_dtype;
    /* A request's results do not depend on how many tokens a step has; default true. False, with "tensor" only: large
     * matrix products may go through cuBLASLt. */
    bool batch_invariant;
    int threads; /* 0: the physical cores this process may use */
    /* "auto" (a CUDA device where there is one, else the CPU) | "cpu" | "cuda" | "cuda:N"; of several ranks each takes
     * a device of its own machine, or all take the CPU, and "cuda:N" is refused */
    const char *device;
    bool vocab_only; /* tokenizer and chat template only; no weights are read */
    /* Processes that hold the model together, each a part of the heads, MLPs and vocabulary; default 1. All of them
     * (mpirun -n N) open the model with the same path and options. Rank 0 goes on alone, and threads is of each. */
    int tensor_parallel_size;
    /* Load progress, 0..1, called from the opening thread; NULL for none. */
    void (*on_progress)(void *user, double fraction);
    void *user;
} quire_model_options;

#define QUIRE_MAX_TENSOR_PARALLEL_SIZE 64

QUIRE_API void quire_model_options_init(quire_model_options *options);

/* Open a GGUF file (first part of a split one), a Hugging Face checkpoint folder, or a name that
 * quire_pull() fetched before.  options NULL: the defaults.  Returns OK | IO | FORMAT | UNSUPPORTED | NOMEM | NOT_FOUND
 * | INVALID | DEVICE.  With tensor_parallel_size > 1 it returns on rank 0 when all ranks have their part (or one has
 * failed), on the others when rank 0 closes the model: RANK_ENDED, no model. */
QUIRE_API QUIRE_MUST_USE quire_status quire_model_open(const char *path, const quire_model_options *options,
                                                       quire_model **out, quire_error *error);
/* No engine may still use the model. NULL is fine. */
QUIRE_API void quire_model_close(quire_model *model);

typedef struct quire_model_info {
    const char *name;         /* owned by the model */
    const char *architecture; /* "llama", "qwen2", ... */
    const char *format;       /* "gguf" | "safetensors" */
    const char *weight_dtype; /* the commonest tensor type, "Q4_1", "BF16", ... */
    const char *compute_dtype;
    int num_layers, hidden_size, num_attention_heads, num_key_value_heads, head_size, vocab_size;
    int max_position_embeddings;
    int64_t num_parameters;
    size_t weights_bytes;      /* resident, as packed */
    size_t kv_bytes_per_token; /* at float16 */
    bool has_chat_template;
    int32_t bos_token_id, eos_token_id; /* -1: none */
    const char *device;                 /* what computes: "cpu (avx2, 8 threads)"; NULL with vocab_only */
    int tensor_parallel_size;           /* processes that hold the model together; weights_bytes is of rank 0 */
    bool batch_invariant;
} quire_model_info;

QUIRE_API void quire_model_get_info(const quire_model *model, quire_model_info *out);

/* Everything `quire inspect` shows, as one JSON document: metadata, tensors, tokenizer, memory plan.
 * Works on any file whose headers are readable, also when the architecture is unsupported. */
QUIRE_API QUIRE_MUST_USE quire_status quire_inspect_json(const char *path, char **out_json, quire_error *error);

/* float32 logits [num_ids, vocab_size] of one prompt, computed in one go; for tests and research. */
QUIRE_API QUIRE_MUST_USE quire_status quire_model_logits(quire_model *model, const int32_t *ids, size_t num_ids,
                                                         float *out, quire_error *error);

/* ---- text ------------------------------------------------------------------------------------- */

/* Text to token ids. Invalid UTF-8 is replaced by U+FFFD first, as the reference tokenizers do.
 *   add_special    add BOS/EOS as the model's file says
 *   parse_special  "<|im_end|>" in the text becomes that token rather than its characters */
QUIRE_API QUIRE_MUST_USE quire_status quire_tokenize(const quire_model *model, const char *text, size_t text_bytes,
                                                     bool add_special, bool parse_special, int32_t **out_ids,
                                                     size_t *out_num_ids, quire_error *error);
/* Token ids to bytes (NUL-terminated; out_bytes excludes the NUL). INVALID on an id outside the vocabulary. */
QUIRE_API QUIRE_MUST_USE quire_status quire_detokenize(const quire_model *model, const int32_t *ids, size_t num_ids,
                                                       bool skip_special, char **out_text, size_t *out_bytes,
                                                       quire_error *error);

typedef struct quire_render_options {
    const char *messages_json;        /* array of {"role", "content", ...}; required */
    const char *tools_json;           /* array, or NULL */
    const char *template_text;        /* Jinja source, or NULL for the model's own */
    const char *template_kwargs_json; /* object of extra variables, or NULL */
    const char *bos, *eos;            /* override the model's bos_token / eos_token text, or NULL */
    bool add_generation_prompt;       /* default true */
} quire_render_options;

QUIRE_API void quire_render_options_init(quire_render_options *options);

/* Render a chat with the model's (or the given) Jinja template. `model` may be NULL when template_text is set. */
QUIRE_API QUIRE_MUST_USE quire_status quire_render_chat(const quire_model *model, const quire_render_options *options,
                                                        char **out_prompt, size_t *out_bytes, quire_error *error);

/* ---- engine ----------------------------------------------------------------------------------- */

typedef struct quire_engine quire_engine;

/* The parts of a step, in their order: XX(NAME, text). Together they are all of its time. */
#define QUIRE_STEP_PART_MAP(XX)                                                                 \
    XX(BETWEEN, "between steps") /* taking in requests; waiting when there are none */          \
    XX(SCHEDULE, "schedule")     /* which sequences, how many tokens each, their blocks */      \
    XX(BATCH, "batch")           /* the arrays that the model reads */                          \
    XX(DRAFT, "draft model")     /* speculation */                                              \
    XX(COPIES, "block copies")   /* of shared blocks, to and from swap space */                 \
    XX(EMBEDDING, "embedding")   /* from here to the logits: the model, by kind of operation */ \
    XX(NORMS, "norms")                                                                          \
    XX(QKV, "QKV linear")                                                                       \
    XX(ROPE, "RoPE, KV write")                                                                  \
    XX(ATTENTION, "attention")                                                                  \
    XX(ATTN_OUTPUT, "output linear")                                                            \
    XX(MLP, "MLP linears")                                                                      \
    XX(ACTIVATION, "activation")                                                                \
    XX(LOGITS, "logits")                                                                        \
    XX(SAMPLING, "sampling")                                                                    \
    XX(UPDATE, "update") /* what was computed is noted; counters */                             \
    XX(OUTPUT, "output") /* tokens appended, detokenized and delivered; sequences ended */

typedef enum quire_step_part {
#define XX(name, text) QUIRE_STEP_##name,
    QUIRE_STEP_PART_MAP(XX)
#undef XX
        QUIRE_NUM_STEP_PARTS
} quire_step_part;

QUIRE_API const char *quire_step_part_text(quire_step_part part); /* "schedule", ...; static storage */

/* Where the time of one step went. */
typedef struct quire_step_profile {
    int num_seqs, num_tokens;             /* in the batch; a sequence that decodes has one token */
    int64_t num_context_tokens;           /* of all its sequences, the new ones included */
    double seconds[QUIRE_NUM_STEP_PARTS]; /* that passed */
    double bookkeeping_cpu_seconds;       /* processor time of the engine thread outside the model and the sampler */
} quire_step_profile;

typedef struct quire_engine_options {
    int block_size;               /* tokens per KV block: 8, 16 (default), 32, 64, 128 */
    int64_t num_kv_blocks;        /* > 0: exactly so many; else from the two below */
    size_t kv_cache_memory_bytes; /* > 0: the pool's size; else from gpu_memory_utilization */
    /* The part of a GPU's memory that the program may use, the model and all it needs included (0: 0.92); without one
     * the part of the memory now free that the pool takes (0: 0.5). Default 0. */
    double gpu_memory_utilization;
    /* "auto" (float16; float32 with compute_dtype float32) | "float16" | "float32" | "int8" | "fp8_e4m3" ("fp8") |
     * "fp8_e5m2": half the memory of float16 (int8: 2 bytes more per token, KV head, K and V), less exact */
    const char *kv_cache_dtype;
    int max_num_batched_tokens;  /* token budget of one step; default 512: a CPU is at full speed */
    int max_num_seqs;            /* running sequences at most; default 128 */
    int max_model_len;           /* prompt + output tokens at most; 0: the model's */
    int max_num_queued_reqs;     /* waiting requests at most, then QUEUE_FULL; 0: no limit */
    bool enable_chunked_prefill; /* default true; off under every kv_allocator but "vllm" */
    bool enable_prefix_caching;  /* default true; off under "orca-..." and "faster-transformer" */
    /* How KV memory is given out: "vllm" (default), in blocks; for comparison "vllm-v0", the scheduler of the paper,
     * and its baselines with contiguous memory, "orca-max", "orca-pow2", "orca-oracle" (which take max_tokens for the
     * true length) and "faster-transformer". docs/memory.md */
    const char *kv_allocator;
    /* "fair" (default with kv_allocator "vllm"): a short prompt overtakes a longer one while fewer tokens were computed
     * between their arrivals than it is shorter | "fcfs" (default else) | "priority". NULL: the default */
    const char *scheduling_policy;
    const char *preemption_mode; /* "recompute" (default) | "swap" | "auto": whichever is cheaper as measured */
    size_t swap_space_bytes;     /* host memory for preempted groups' KV blocks; > 0 for swap and auto, else 0 */
    const char *swap_path;       /* folder for a file to hold the swap space instead of memory; NULL: memory */
    /* Folder for a file that keeps evicted and, when the engine is destroyed, all cached full blocks, and is read again
     * by the next engine of the same model, compute and KV dtype and block size; NULL: none. One engine at a time. */
    const char *prefix_cache_path;
    size_t prefix_cache_space_bytes; /* size of that file at most; default 4 GiB */
    uint64_t seed;                   /* key of the random numbers of requests without a seed; default 0 */
    const char *schedule_log; /* file that gets every request and step as JSON Lines (docs/simulation.md), prompts
                               * and outputs included; NULL: none */
    /* Guess tokens and check several in one step; the output is the same, bit for bit. vLLM's JSON:
     * {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2} looks the last
     * tokens up in the sequence itself; {"model": PATH, "num_speculative_tokens": 4} asks a smaller model with the same
     * tokenizer, whose KV cache comes out of the same memory. NULL: off. */
    const char *speculative_config;
    /* Measure the parts of every step: called on the engine thread when a step is done, must not call the
     * engine. No other engine may use the same model meanwhile. NULL: nothing is measured, at no cost. */
    void (*on_step)(void *user, const quire_step_profile *step);
    void *user;
} quire_engine_options;

#define QUIRE_MAX_SPECULATIVE_TOKENS 32

QUIRE_API void quire_engine_options_init(quire_engine_options *options);

/* Reserve the KV pool and every buffer a step needs, start the engine thread. The model must outlive the engine.
 * options NULL: the defaults. */
QUIRE_API QUIRE_MUST_USE quire_status quire_engine_create(quire_model *model, const quire_engine_options *options,
                                                          quire_engine **out, quire_error *error);
/* Abort what still runs (their callbacks get a finished output with finish_reason ABORT), join, free. */
QUIRE_API void quire_engine_destroy(quire_engine *engine);
/* Refuse new requests, return when all that were accepted have finished, or TIMEOUT. timeout_ms < 0: no limit. */
QUIRE_API QUIRE_MUST_USE quire_status quire_engine_drain(quire_engine *engine, int timeout_ms);

/* Upper bounds of histogram buckets are vLLM's; counts[i] holds observations <= bounds[i], not cumulative;
 * the last one is +Inf. */
#define QUIRE_MAX_BUCKETS 32
typedef struct quire_histogram {
    int num_bounds;
    double bounds[QUIRE_MAX_BUCKETS];
    uint64_t counts[QUIRE_MAX_BUCKETS + 1];
    uint64_t count;
    double sum;
} quire_histogram;

typedef struct quire_stats {
    int num_requests_running, num_requests_waiting; /* requests, now */
    int num_seqs_running;                           /* sequences, now */
    int64_t num_kv_blocks, num_free_kv_blocks;      /* free includes cached blocks nobody references */
    int block_size, max_model_len, max_num_seqs, max_num_batched_tokens;
    const char *kv_cache_dtype; /* static storage */
    size_t kv_cache_bytes;
    double kv_cache_usage;                            /* 0..1 */
    uint64_t prefix_cache_queries, prefix_cache_hits; /* tokens, since start */
    uint64_t external_prefix_cache_queries;           /* tokens looked for in the stored prefix cache, since start */
    uint64_t external_prefix_cache_hits;              /* and found there */
    int64_t max_prefix_store_blocks;                  /* the stored prefix cache: room for; 0 without one */
    int64_t num_prefix_store_blocks;                  /* held now */
    uint64_t prefix_store_written;                    /* blocks since start */
    uint64_t prefix_store_dropped;                    /* blocks not kept: the disk was slower than they came, or full */
    uint64_t prefix_store_broken;                     /* blocks found damaged, and computed again */
    uint64_t num_preemptions, num_steps;
    uint64_t num_swapped_groups; /* preemptions that moved the group to swap space */
    uint64_t prompt_tokens, generation_tokens;
    int num_speculative_tokens;     /* drafts at a time at most; 0: no speculation */
    const char *speculative_method; /* "ngram" | "draft_model"; "" without; static storage */
    uint64_t spec_decode_num_drafts, spec_decode_num_draft_tokens, spec_decode_num_accepted_tokens;
    uint64_t spec_decode_num_accepted_tokens_per_pos[QUIRE_MAX_SPECULATIVE_TOKENS];
    uint64_t finished_stop, finished_length, finished_abort, finished_error;
    const char *kv_allocator; /* static storage */
    /* What the slots of the pool are used for, mean over all steps so far; the five add up to 1. Live: K and V of
     * tokens of running sequences. Reserved: will be used by the sequence that has them. Internal: given to a sequence
     * that will not use them. External: free, but too scattered for the next request, or lost to rounding. */
    double kv_live_fraction, kv_reserved_fraction, kv_internal_fraction, kv_external_fraction, kv_unused_fraction;
    double mean_requests_running; /* over all steps so far */
    double live_slot_fraction;   /* live tokens / slots of allocated blocks, mean over all steps so far; 0 before one */
    double saved_block_fraction; /* blocks saved by sharing / blocks without sharing, mean over all steps so far */
    /* Time of all steps since start, and its parts: choosing tokens, giving them blocks and building the batch; copies
     * of shared blocks and swapping; the model and the sampler; appending tokens, forks and drops of sequences, outputs
     */
    double step_seconds, schedule_seconds, copy_seconds, forward_seconds, update_seconds;
    quire_histogram time_to_first_token_seconds, inter_token_latency_seconds, e2e_request_latency_seconds,
        request_queue_time_seconds, request_prompt_tokens, request_generation_tokens, iteration_tokens;
} quire_stats;

QUIRE_API void quire_engine_get_stats(quire_engine *engine, quire_stats *out);
/* Forget cached prefixes that no request holds. */
QUIRE_API void quire_engine_reset_prefix_cache(quire_engine *engine);

/* ---- requests --------------------------------------------------------------------------------- */

typedef struct quire_logit_bias {
    int32_t token_id;
    float bias; /* added to the logit before sampling, -100..100 */
} quire_logit_bias;

/* When a beam search ends, as in transformers' generate(): FALSE as soon as no running beam is likely to beat the worst
 * finished one at the present length; TRUE with the first best_of finished beams; NEVER when none can possibly. */
typedef enum quire_early_stopping {
    QUIRE_EARLY_STOPPING_FALSE,
    QUIRE_EARLY_STOPPING_TRUE,
    QUIRE_EARLY_STOPPING_NEVER
} quire_early_stopping;

/* Sequences that are chosen among (best_of above n, beams) come whole, in one output each, best first; they cannot be
 * combined with logprobs. A beam search ignores temperature, top_k, top_p, min_p, typical_p and seed, and cannot be
 * combined with penalties, logit_bias or stop strings. */
typedef struct quire_sampling_params {
    int n;                 /* sequences to return, >= 1 */
    int best_of;           /* sequences to generate, the best n returned (by mean logprob); 0: n. Beam width */
    bool use_beam_search;  /* best_of (or n) beams; the best n by score come whole, when all are done */
    double length_penalty; /* beam score = cumulative logprob / tokens ^ length_penalty; default 1 */
    quire_early_stopping early_stopping; /* when a beam search may end; default QUIRE_EARLY_STOPPING_FALSE */
    int max_tokens;                      /* new tokens at most; < 0: until max_model_len */
    int min_tokens;                      /* stop tokens and strings do not count before so many */
    double temperature;                  /* 0: greedy */
    double top_p;                        /* (0, 1]; 1: off */
    int top_k;                           /* <= 0: off */
    double min_p;                        /* [0, 1]; 0: off */
    double typical_p;                    /* (0, 1]; 1: off */
    double repetition_penalty;           /* > 0; 1: off; prompt and output */
    double presence_penalty;             /* [-2, 2]; output only */
    double frequency_penalty;            /* [-2, 2]; output only */
    bool has_seed;
    uint64_t seed; /* sequence i of n draws with (seed, i, position) */
    bool ignore_eos;
    int logprobs;        /* top candidates per output token; -1: none; 0: the chosen token's only */
    int prompt_logprobs; /* the same for prompt tokens; -1: none */
    bool echo;           /* outputs start with the prompt's text (and token ids, and logprobs if asked) */
    bool include_stop_str_in_output;
    bool skip_special_tokens; /* default true */
    bool detokenize;          /* default true; false: token ids only, stop strings are INVALID */
    const char *const *stop;  /* stop strings */
    int num_stop;
    const int32_t *stop_token_ids;
    int num_stop_token_ids;
    const quire_logit_bias *logit_bias;
    int num_logit_bias;
} quire_sampling_params;

QUIRE_API void quire_sampling_params_init(quire_sampling_params *params); /* vLLM's defaults; max_tokens 16 */

/* XX(name, value, text): text is the API's finish_reason. */
#define QUIRE_FINISH_MAP(XX) \
    XX(NONE, 0, "")          \
    XX(STOP, 1, "stop")      \
    XX(LENGTH, 2, "length")  \
    XX(ABORT, 3, "abort")    \
    XX(ERROR, 4, "error")

typedef enum quire_finish_reason {
#define XX(name, value, text) QUIRE_FINISH_##name = value,
    QUIRE_FINISH_MAP(XX)
#undef XX
} quire_finish_reason;

QUIRE_API const char *quire_finish_reason_text(quire_finish_reason reason);

/* Log probabilities of one token position. num_top candidates, best first; `logprob` and `rank` (1 = likeliest)
 * are the chosen token's. A prompt's first token has none: num_top == 0 and logprob is NaN. */
typedef struct quire_token_logprobs {
    int32_t token_id;
    int rank;
    float logprob;
    int num_top;
    const int32_t *top_ids;
    const float *top_logprobs;
} quire_token_logprobs;

/* What one step added to one sequence of a request. */
typedef struct quire_output {
    int index;        /* which of n */
    const char *text; /* new text: whole UTF-8 characters, NUL-terminated */
    size_t text_bytes;
    const int32_t *token_ids; /* [num_tokens] new tokens; more than one when text was held back or echo is on */
    int num_tokens;
    const quire_token_logprobs *logprobs; /* [num_tokens] or NULL */
    const int32_t *prompt_token_ids;      /* on a sequence's first output with echo or prompt_logprobs, else NULL */
    int num_prompt_tokens;                /* always set */
    const quire_token_logprobs *prompt_logprobs; /* [num_prompt_tokens] or NULL; with prompt_token_ids */
    int num_cached_tokens;                       /* prompt tokens found in the prefix cache */
    int num_output_tokens;                       /* of this sequence so far */
    double cumulative_logprob;                   /* of the sequence so far; NaN without logprobs, best_of and beams */
    double beam_score;                           /* what beams are sorted by; NaN without beam search */
    quire_finish_reason finish_reason;           /* NONE while the sequence runs */
    const char *stop_string;                     /* the stop string that ended it, or NULL */
    int32_t stop_token_id;                       /* the stop token that ended it, or -1 */
    const char *error_message;                   /* with finish_reason ERROR */
    bool request_finished;                       /* the last output of the request */
} quire_output;

typedef struct quire_request quire_request;

typedef struct quire_request_options {
    const char *prompt; /* text, or NULL when prompt_token_ids is given */
    size_t prompt_bytes;
    bool parse_special;              /* default true: special tokens in `prompt` are recognised */
    bool add_special;                /* default true: BOS as the model's file says; a rendered chat sets false */
    const int32_t *prompt_token_ids; /* [num_prompt_tokens] or NULL */
    size_t num_prompt_tokens;
    const char *cache_salt; /* requests share cached prefixes only with the same salt; NULL: none */
    int priority;           /* lower runs first with scheduling_policy "priority" */
    quire_sampling_params sampling;
    /* Streaming: called on the engine thread for every output; must return quickly and must not call the engine
     * except quire_request_abort(). The output and all it points to live until it returns. NULL: poll. */
    void (*on_output)(void *user, const quire_output *output);
    void *user;
} quire_request_options;

QUIRE_API void quire_request_options_init(quire_request_options *options);

/* Hand a request to the engine; all input is copied (and tokenized) before it returns.
 *   returns  OK | QUEUE_FULL (nothing changed) | INVALID (error->param names the field; also a prompt that could
 *            never fit, with the numbers) | NOMEM | ABORTED (the engine drains)
 *   owns     the caller: quire_request_release() exactly once, at any time */
QUIRE_API QUIRE_MUST_USE quire_status quire_submit(quire_engine *engine, const quire_request_options *options,
                                                   quire_request **out, quire_error *error);
/* Tokens of the request's prompt; known right after quire_submit(). */
QUIRE_API int quire_request_num_prompt_tokens(const quire_request *request);
/* Polling, for requests without on_output: wait for the next output, at most timeout_ms (< 0: no limit, 0: do not
 * wait). *out belongs to the request and lives until the next call or the release. OK | TIMEOUT | ABORTED (none
 * will come any more). One thread per request. */
QUIRE_API QUIRE_MUST_USE quire_status quire_request_next(quire_request *request, int timeout_ms,
                                                         const quire_output **out);
/* Stop it: its blocks are free after the step that is running. A finished request is left as it is. */
QUIRE_API void quire_request_abort(quire_request *request);
/* Give the handle back (before or after the engine is destroyed; abort only before); a running request goes on unless
 * aborted. After return with on_output set, callbacks may still come until the output with request_finished. */
QUIRE_API void quire_request_release(quire_request *request);

/* ---- hub -------------------------------------------------------------------------------------- */

typedef struct quire_pull_options {
    const char *repo;     /* "owner/name" */
    const char *file;     /* one file of it, or NULL: a GGUF if there is exactly one, else the safetensors checkpoint */
    const char *revision; /* NULL: "main" */
    const char *endpoint; /* NULL: HF_ENDPOINT, else the public hub */
    const char *token;    /* NULL: HF_TOKEN, else none */
    const char *dest_dir; /* the files' folder; NULL: owner/name in the model folder (see quire_model_dir) */
    /* Progress: done and total bytes of one file, total 0 while unknown. Return false to stop (ABORTED). */
    bool (*on_progress)(void *user, const char *file, uint64_t done_bytes, uint64_t total_bytes);
    void *user;
} quire_pull_options;

QUIRE_API void quire_pull_options_init(quire_pull_options *options);
/* Download, resuming what was begun and checking SHA-256 where the hub names one; a file gets its final name only
 * when whole. *out_path: what quire_model_open() takes. */
QUIRE_API QUIRE_MUST_USE quire_status quire_pull(const quire_pull_options *options, char **out_path,
                                                 quire_error *error);
/* Where pulled models live: $QUIRE_MODELS, else $XDG_CACHE_HOME/quire/models, else ~/.cache/quire/models. */
QUIRE_API char *quire_model_dir(void);

#ifdef __cplusplus
}
#endif
#endif
