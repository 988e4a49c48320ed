/* cli: the `quire` program.
 *
 *   main.c ── commands.c (what exists: commands, options, help texts) ── options parsed into qr_cli_args
 *                │ run()
 *                ├─ serve.c   generate.c, batch.c, job.c   chat.c       use the engine
 *                ├─ text.c (tokenize, detokenize, render, logits)   inspect.c   pull.c
 *                ├─ bench.c, bench_local.c, bench_step.c, bench_kernels.c, bench_serve.c
 *                ├─ launch.c: the command once more, as ranks under mpirun
 *                └─ simulate.c (options in simulate_options.c, charts in simulate_plots.c), replay.c   paper.c
 *
 * Rules: standard output is data, standard error is talk. A command returns its exit status: 0 done, 1 failed, 2 wrong
 * use. Only main.c calls exit(). SIGPIPE is ignored; writes to standard output are checked.
 * Threads: the main thread only, but for engine callbacks where stated. */
#ifndef QR_CLI_CLI_H
#define QR_CLI_CLI_H

#include <stdio.h>

#include "base/options.h"
#include "server/server.h"

enum { QR_CLI_OK = 0, QR_CLI_FAILED = 1, QR_CLI_USAGE = 2 };
enum { QR_CLI_MAX_WORDS = 2 };

typedef struct qr_cli_bench_args {
    int num_prompts, input_len, output_len, random_input_len, random_prefix_len, random_output_len;
    int batch_size, num_iters, num_iters_warmup, max_concurrency;
    double random_range_ratio, request_rate, burstiness, temperature;
    uint64_t seed;
    bool ignore_eos, save_result, save_detailed;
    const char *dataset_name, *dataset_path, *base_url, *endpoint, *model, *metric_percentiles;
    const char *result_dir, *result_filename, *output_json, *calibration;
    const char *n_list, *beam_width_list; /* "2,4,6" */
    int num_seqs, context_len, prompt_chunk, num_steps, num_steps_warmup;
    const char *svg, *filter, *isa;
} qr_cli_bench_args;

typedef struct qr_cli_sim_args {
    const char *plots;
    const char *model, *device, *calibration, *kv_allocators, *request_rates, *beam_record, *replay, *fit;
    int tensor_parallel_size, shared_prefix;
    double speed, duration;
    int64_t num_prompts;
} qr_cli_sim_args;

typedef struct qr_cli_paper_args {
    double hours;
    qr_option_list traces;
} qr_cli_paper_args;

/* Every option of every command; a command's option groups say which of them it takes. */
typedef struct qr_cli_args {
    bool help, rank_ended;
    const char *words[QR_CLI_MAX_WORDS]; /* MODEL, REPO */
    int num_words;

    quire_model_options model;
    quire_engine_options engine;
    double swap_space_gib, prefix_cache_space_gib;
    quire_sampling_params sampling;
    qr_option_list stop;
    const char *stop_token_ids, *logit_bias; /* "1,2" and {"1": -5} */
    int beam_width;
    const char *early_stopping;
    uint64_t seed;
    bool seed_given, max_tokens_given, chunked_prefill_given, prefix_caching_given;

    const char *prompt, *file, *out, *ids;
    bool json, no_add_special, no_parse_special, skip_special;
    const char *messages, *tools, *bos, *eos, *system;
    bool no_generation_prompt;
    const char *revision, *dir;

    qr_server_options server; /* bench serve uses its host, port and api_key */
    qr_option_list served_model_names;
    const char *chat_template, *log_level; /* chat_template: a file's name */
    qr_cli_bench_args bench;
    qr_cli_sim_args sim;
    qr_cli_paper_args paper;
} qr_cli_args;

typedef struct qr_cli_command {
    const char *name;        /* "generate", "bench serve" */
    const char *arguments;   /* "MODEL", or "" */
    const char *summary;     /* one line for the overview */
    const char *description; /* one or more paragraphs */
    const char *examples;    /* lines */
    const qr_option_group *const *groups;
    int min_words;
    int (*run)(qr_cli_args *args);
    void (*set_defaults)(qr_cli_args *args); /* where they differ from the library's; NULL: nowhere */
} qr_cli_command;

/* ---- commands.c ------------------------------------------------------------------------------- */

extern const qr_cli_command qr_cli_commands[]; /* ends with name NULL */
/* The command that argv begins with; *out_num_words is how many words its name took. NULL: none. */
const qr_cli_command *qr_cli_find_command(int argc, char *const *argv, int *out_num_words);
/* The library's defaults and the command's own. */
void qr_cli_default_args(const qr_cli_command *command, qr_cli_args *args);

extern const qr_option_group qr_cli_general; /* --help, which every command has */
/* simulate_options.c */
extern const qr_option_group *const qr_cli_simulate_groups[];
void qr_cli_simulate_defaults(qr_cli_args *args);
/* paper.c */
extern const qr_option_group *const qr_cli_paper_groups[];
void qr_cli_paper_defaults(qr_cli_args *args);

/* ---- help.c ----------------------------------------------------------------------------------- */

int qr_cli_print_overview(FILE *stream);
int qr_cli_print_help(const qr_cli_command *command);
int qr_cli_print_family(const char *word); /* `quire bench` alone: the commands that begin with this word */
int qr_cli_print_man(void);                /* the man page's source; docs/quire.1 is its output */

/* ---- terminal.c ------------------------------------------------------------------------------- */

bool qr_cli_is_terminal(FILE *stream);
bool qr_cli_has_colour(FILE *stream); /* a terminal, and no NO_COLOR */
int qr_cli_width(void);               /* columns, 40 to 100; 80 when not a terminal */
/* "quire: text" on standard error, in red on a terminal; returns QR_CLI_FAILED. */
int qr_cli_fail(const char *fmt, ...) QR_PRINTF(1, 2);
/* The same for wrong use: adds where to find help; returns QR_CLI_USAGE. */
int qr_cli_usage_error(const char *command, const char *fmt, ...) QR_PRINTF(2, 3);
/* Talk: a line on standard error. */
void qr_cli_note(const char *fmt, ...) QR_PRINTF(1, 2);
/* Flush standard output. QR_CLI_OK, or QR_CLI_FAILED with the error said (once). */
int qr_cli_flush(void);
/* "1.5 GiB" into out. */
void qr_cli_format_bytes(double bytes, char *out, size_t out_bytes);

/* One line on standard error that is redrawn; nothing at all unless it is a terminal. */
typedef struct qr_cli_progress {
    const char *label;
    int64_t started_us, drawn_us;
    int64_t delay_us; /* nothing is drawn before so much time has passed */
    bool drawn;
} qr_cli_progress;
void qr_cli_progress_start(qr_cli_progress *progress, const char *label, int64_t delay_us);
/* fraction < 0: unknown. `detail` follows the bar. */
void qr_cli_progress_draw(qr_cli_progress *progress, double fraction, const char *detail);
void qr_cli_progress_end(qr_cli_progress *progress); /* removes the line */

/* SIGINT sets a flag instead of ending the program, until _release(). */
void qr_cli_interrupt_catch(void);
void qr_cli_interrupt_release(void);
bool qr_cli_interrupted(void);
void qr_cli_interrupt_clear(void);
/* Wait, while interrupts are caught, until standard input (a terminal) has a line: true, or until one comes: false. */
bool qr_cli_wait_input(void);

/* ---- common.c --------------------------------------------------------------------------------- */

/* launch.c: whether this process was started as one of several ranks; if not, `mpirun -n num_ranks quire argv...`, argv
 * being what followed the program's name to a NULL, and its exit status. Rank 0 says when its model is open: from then
 * on it gets the signals. */
bool qr_cli_is_rank(void);
int qr_cli_run_ranks(int num_ranks, char *const *argv);
void qr_cli_ranks_are_ready(void);
/* Open args->words[0] with a progress bar. QR_CLI_OK, or the error said and QR_CLI_FAILED;
 * likewise QR_CLI_FAILED, with rank_ended, in a process that was a rank above 0 and has done its part. */
int qr_cli_open_model(qr_cli_args *args, bool vocab_only, quire_model **out);
int qr_cli_create_engine(qr_cli_args *args, quire_model *model, quire_engine **out);
/* Standard error: model, memory and threads in one or two lines. */
void qr_cli_describe(const quire_model *model, quire_engine *engine);

/* The whole of a file, "-" is standard input; data[len] is NUL. Free out->data. */
QUIRE_MUST_USE quire_status qr_cli_read_file(const char *path, qr_buf *out, quire_error *error);
/* "1,2,3" or "[1, 2, 3]"; *out is freed by the caller. */
QUIRE_MUST_USE quire_status qr_cli_parse_ids(const char *text, int32_t **out, size_t *out_count, quire_error *error);

/* ---- the commands ----------------------------------------------------------------------------- */

int qr_cli_run_serve(qr_cli_args *args);
int qr_cli_run_chat(qr_cli_args *args);
int qr_cli_run_generate(qr_cli_args *args);
int qr_cli_run_tokenize(qr_cli_args *args);
int qr_cli_run_detokenize(qr_cli_args *args);
int qr_cli_run_render(qr_cli_args *args);
int qr_cli_run_logits(qr_cli_args *args);
int qr_cli_run_inspect(qr_cli_args *args);
int qr_cli_run_pull(qr_cli_args *args);
int qr_cli_run_bench_throughput(qr_cli_args *args);
int qr_cli_run_bench_latency(qr_cli_args *args);
int qr_cli_run_bench_sharing(qr_cli_args *args);
int qr_cli_run_bench_step(qr_cli_args *args);
int qr_cli_run_bench_kernels(qr_cli_args *args);
int qr_cli_run_bench_serve(qr_cli_args *args);
int qr_cli_run_simulate(qr_cli_args *args);
int qr_cli_run_paper(qr_cli_args *args);

#endif
