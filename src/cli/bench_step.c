/* quire bench step: where the time of a step goes, with the real engine and model.
 *
 *   num_seqs sequences decode at context_len; beside them, with prompt_chunk, prompts of which each step computes
 *   exactly one chunk: they begin alike, so all but the chunk is found in the prefix cache. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "report/flame.h"

/* What the engine thread records, and what the main thread waits for. */
typedef struct recorder {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int num_seqs, num_chunks, prompt_chunk; /* of a step to record: num_chunks is 1 with prompts, else 0 */
    bool all_decode;                        /* a step had all decoding sequences and nothing else */
    bool submitting; /* the engine thread waits while requests are submitted: none may end before all are there */
    int num_skip;    /* steps like those to record, before them */
    quire_step_profile *steps; /* [max_steps] */
    int count, max_steps;
    int num_decode_finished, num_prompts_finished, num_prompts;
    char message[256]; /* of a request that failed */
} recorder;

static bool is_over(const recorder *r)
{
    return r->count == r->max_steps || r->num_decode_finished > 0 ||
           (r->num_prompts > 0 && r->num_prompts_finished == r->num_prompts) || *r->message;
}

static void on_step(void *user, const quire_step_profile *step)
{
    recorder *r = user;
    pthread_mutex_lock(&r->lock);
    while (r->submitting) pthread_cond_wait(&r->changed, &r->lock);
    if (!r->all_decode && step->num_seqs == r->num_seqs && step->num_tokens == r->num_seqs) {
        r->all_decode = r->submitting = true; /* the prompts now */
        pthread_cond_broadcast(&r->changed);
        while (r->submitting) pthread_cond_wait(&r->changed, &r->lock);
    }
    bool wanted = (r->all_decode || r->num_seqs == 0) && step->num_seqs == r->num_seqs + r->num_chunks &&
                  step->num_tokens == r->num_seqs + r->prompt_chunk;
    if (wanted && r->num_skip > 0)
        r->num_skip--;
    else if (wanted && r->count < r->max_steps)
        r->steps[r->count++] = *step;
    if (is_over(r)) pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void count_finished(recorder *r, const quire_output *output, int *counter)
{
    if (!output->request_finished) return;
    pthread_mutex_lock(&r->lock);
    ++*counter;
    if (output->finish_reason == QUIRE_FINISH_ERROR)
        snprintf(r->message, sizeof r->message, "%s", output->error_message ? output->error_message : "engine error");
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void on_decode_output(void *user, const quire_output *output)
{
    recorder *r = user;
    count_finished(r, output, &r->num_decode_finished);
}

static void on_prompt_output(void *user, const quire_output *output)
{
    recorder *r = user;
    count_finished(r, output, &r->num_prompts_finished);
}

/* ---- workload --------------------------------------------------------------------------------- */

/* Lengths, in tokens, that give steps of exactly the shape asked for. */
typedef struct step_plan {
    int budget;            /* tokens of a step at most */
    int shared_len;        /* what prompts begin with alike: whole blocks */
    int first_prompt_len;  /* of the prompt that fills the cache: whole chunks */
    int num_prompts;       /* that one included */
    int num_skip;          /* steps of it, and warm-up */
    int decode_output_len; /* so that nobody ends before the last step is measured */
    int64_t num_blocks;    /* KV blocks that all of it takes */
} step_plan;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static step_plan make_plan(const qr_cli_bench_args *b, int block_size)
{
    step_plan p = {.budget = b->prompt_chunk > 0 ? b->num_seqs + b->prompt_chunk : 2048 + b->num_seqs};
    int measured = b->num_steps_warmup + b->num_steps;
    p.num_skip = b->num_steps_warmup;
    if (b->prompt_chunk > 0) {
        p.shared_len = b->context_len / block_size * block_size;
        int num_chunks = p.shared_len > 0 ? (int)ceil_div(p.shared_len, b->prompt_chunk) : 1;
        p.first_prompt_len = num_chunks * b->prompt_chunk;
        p.num_prompts = 2 + measured; /* the last is there so that the one before it is not */
        p.num_skip += num_chunks;
        measured += num_chunks;
        p.num_blocks = 2 + 2 * ceil_div(p.shared_len + b->prompt_chunk, block_size);
    }
    int64_t prefill_steps = ceil_div((int64_t)b->num_seqs * b->context_len, p.budget - b->num_seqs);
    p.decode_output_len = (int)prefill_steps + measured + 8;
    p.num_blocks += b->num_seqs * ceil_div(b->context_len + p.decode_output_len, block_size);
    return p;
}

static quire_status submit_prompt(quire_engine *engine, const int32_t *ids, int num_ids, int output_len, bool decodes,
                                  recorder *r, quire_error *error)
{
    quire_request *request;
    quire_request_options options;
    quire_request_options_init(&options);
    options.prompt_token_ids = ids;
    options.num_prompt_tokens = (size_t)num_ids;
    options.sampling.max_tokens = output_len;
    options.sampling.ignore_eos = true;
    options.on_output = decodes ? on_decode_output : on_prompt_output;
    options.user = r;
    quire_status status = quire_submit(engine, &options, &request, error);
    if (status == QUIRE_OK) quire_request_release(request);
    return status;
}

static quire_status submit_decoding(quire_engine *engine, const qr_cli_bench_args *b, const step_plan *plan,
                                    recorder *r, quire_error *error)
{
    qr_bench_workload work = {0};
    if (b->num_seqs == 0) return QUIRE_OK;
    QR_TRY(qr_bench_random_prompts(b->num_seqs, b->context_len, plan->decode_output_len, b->seed, &work, error));
    quire_status status = QUIRE_OK;
    for (int i = 0; status == QUIRE_OK && i < work.count; i++)
        status = submit_prompt(engine, work.prompts[i].ids, b->context_len, plan->decode_output_len, true, r, error);
    qr_bench_workload_deinit(&work);
    return status;
}

static quire_status submit_chunks(quire_engine *engine, const qr_cli_bench_args *b, const step_plan *plan, recorder *r,
                                  quire_error *error)
{
    qr_bench_workload work = {0};
    int len = plan->shared_len + b->prompt_chunk;
    if (plan->num_prompts == 0) return QUIRE_OK;
    QR_TRY(qr_bench_random_prompts(plan->num_prompts, len, 1, b->seed + 1, &work, error));
    quire_status status = QUIRE_OK;
    for (int i = 0; status == QUIRE_OK && i < work.count; i++) {
        int32_t *ids = work.prompts[i].ids;
        memcpy(ids, work.prompts[0].ids, (size_t)plan->shared_len * sizeof *ids);
        status = submit_prompt(engine, ids, i == 0 ? plan->first_prompt_len : len, 1, false, r, error);
    }
    qr_bench_workload_deinit(&work);
    return status;
}

/* Requests are submitted: let the engine go on until there is something to do. */
static void let_run(recorder *r, bool for_decode)
{
    pthread_mutex_lock(&r->lock);
    r->submitting = false;
    pthread_cond_broadcast(&r->changed);
    while (!is_over(r) && !(for_decode && r->all_decode)) pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

/* Run the workload until all steps are recorded. */
static int record(quire_engine *engine, const qr_cli_bench_args *b, const step_plan *plan, recorder *r)
{
    quire_error error;
    quire_status status = submit_decoding(engine, b, plan, r, &error);
    if (status == QUIRE_OK && b->num_seqs > 0) let_run(r, true);
    if (status == QUIRE_OK) status = submit_chunks(engine, b, plan, r, &error);
    if (status == QUIRE_OK) let_run(r, false);
    pthread_mutex_lock(&r->lock);
    r->submitting = false; /* also after a failure */
    r->all_decode = true;
    pthread_cond_broadcast(&r->changed);
    int count = r->count;
    pthread_mutex_unlock(&r->lock);
    if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
    if (*r->message) return qr_cli_fail("%s", r->message);
    if (count < r->max_steps)
        return qr_cli_fail("only %d of %d steps had this shape; is another limit in the way?", count, r->max_steps);
    return QR_CLI_OK;
}

/* ---- result ----------------------------------------------------------------------------------- */

typedef struct step_result {
    double us[QUIRE_NUM_STEP_PARTS], total_us, books_us, books_cpu_us;
    double context_len; /* mean of a sequence */
    int num_tokens, num_used;
} step_result;

static double total_seconds(const quire_step_profile *step)
{
    double sum = 0;
    for (int i = 0; i < QUIRE_NUM_STEP_PARTS; i++) sum += step->seconds[i];
    return sum;
}

static int compare_steps(const void *a, const void *b)
{
    double x = total_seconds(a), y = total_seconds(b);
    return (x > y) - (x < y);
}

/* Means of the faster half, so that other load on the machine counts little and the parts still add up. */
static step_result summarize(recorder *r)
{
    static const quire_step_part books[] = {QUIRE_STEP_BETWEEN, QUIRE_STEP_SCHEDULE, QUIRE_STEP_BATCH,
                                            QUIRE_STEP_UPDATE, QUIRE_STEP_OUTPUT};
    step_result result = {.num_used = (r->count + 1) / 2, .num_tokens = r->steps[0].num_tokens};
    qsort(r->steps, (size_t)r->count, sizeof *r->steps, compare_steps);
    const double scale = 1e6 / result.num_used;
    for (int i = 0; i < result.num_used; i++) {
        const quire_step_profile *s = &r->steps[i];
        for (int part = 0; part < QUIRE_NUM_STEP_PARTS; part++) result.us[part] += s->seconds[part] * scale;
        result.total_us += total_seconds(s) * scale;
        result.books_cpu_us += s->bookkeeping_cpu_seconds * scale;
        result.context_len += (double)s->num_context_tokens / s->num_seqs / result.num_used;
    }
    for (size_t i = 0; i < sizeof books / sizeof *books; i++) result.books_us += result.us[books[i]];
    return result;
}

static void print_table(const qr_cli_bench_args *b, const step_result *result)
{
    printf("%d sequences decode, %d tokens of a prompt; %.0f tokens of context; %d of %d steps, the fastest\n\n",
           b->num_seqs, b->prompt_chunk, result->context_len, result->num_used, b->num_steps);
    printf("%-20s %10s %8s\n", "part", "us", "%");
    for (int i = 0; i < QUIRE_NUM_STEP_PARTS; i++)
        if (result->us[i] > 0)
            printf("%-20s %10.1f %8.2f\n", quire_step_part_text((quire_step_part)i), result->us[i],
                   result->us[i] / result->total_us * 100);
    printf("%-20s %10.1f %8.2f   %.1f tokens/s\n\n", "step", result->total_us, 100.0,
           result->num_tokens / result->total_us * 1e6);
    printf("bookkeeping (between steps, schedule, batch, update, output) %.1f us; processor time %.1f us\n",
           result->books_us, result->books_cpu_us);
}

static quire_status save_svg(const char *path, const quire_model_info *info, const qr_cli_bench_args *b,
                             const step_result *result, quire_error *error)
{
    static const struct {
        const char *name; /* NULL: the part's */
        int depth;
        quire_step_part part;
    } tree[] = {{"step", 0, 0},
                {NULL, 1, QUIRE_STEP_BETWEEN},
                {NULL, 1, QUIRE_STEP_SCHEDULE},
                {NULL, 1, QUIRE_STEP_BATCH},
                {NULL, 1, QUIRE_STEP_DRAFT},
                {NULL, 1, QUIRE_STEP_COPIES},
                {"model", 1, 0},
                {NULL, 2, QUIRE_STEP_EMBEDDING},
                {NULL, 2, QUIRE_STEP_NORMS},
                {"attention block", 2, 0},
                {NULL, 3, QUIRE_STEP_QKV},
                {NULL, 3, QUIRE_STEP_ROPE},
                {NULL, 3, QUIRE_STEP_ATTENTION},
                {NULL, 3, QUIRE_STEP_ATTN_OUTPUT},
                {"MLP", 2, 0},
                {NULL, 3, QUIRE_STEP_MLP},
                {NULL, 3, QUIRE_STEP_ACTIVATION},
                {NULL, 2, QUIRE_STEP_LOGITS},
                {NULL, 1, QUIRE_STEP_SAMPLING},
                {NULL, 1, QUIRE_STEP_UPDATE},
                {NULL, 1, QUIRE_STEP_OUTPUT}};
    enum { NUM_FRAMES = sizeof tree / sizeof *tree };
    qr_flame_frame frames[NUM_FRAMES];
    char title[256];
    for (int i = 0; i < NUM_FRAMES; i++)
        frames[i] = (qr_flame_frame){tree[i].name ? tree[i].name : quire_step_part_text(tree[i].part),
                                     tree[i].name ? 0 : result->us[tree[i].part], tree[i].depth};
    snprintf(title, sizeof title, "A step of %.80s: %d sequences decode, %d tokens of a prompt, context %.0f; %.60s",
             info->name, b->num_seqs, b->prompt_chunk, result->context_len, info->device);
    const qr_flame flame = {.title = title, .unit = "us", .frames = frames, .num_frames = NUM_FRAMES};
    return qr_flame_save(&flame, path, error);
}

static int report(const qr_cli_args *args, const quire_model *model, const step_result *result)
{
    quire_error error;
    quire_model_info info;
    const qr_cli_bench_args *b = &args->bench;
    quire_model_get_info(model, &info);
    if (!args->json) print_table(b, result);
    if (b->svg && save_svg(b->svg, &info, b, result, &error) != QUIRE_OK) return qr_cli_fail("%s", error.message);
    json_t *parts = json_object();
    for (int i = 0; i < QUIRE_NUM_STEP_PARTS; i++)
        (void)json_object_set_new(parts, quire_step_part_text((quire_step_part)i), json_real(result->us[i]));
    json_t *json = json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:i, s:i, s:f, s:o, s:f, s:f}", "model", info.name,
                             "device", info.device, "num_seqs", b->num_seqs, "prompt_chunk", b->prompt_chunk,
                             "num_tokens", result->num_tokens, "context_len", result->context_len, "num_steps",
                             b->num_steps, "num_steps_used", result->num_used, "step_us", result->total_us, "parts_us",
                             parts, "bookkeeping_us", result->books_us, "bookkeeping_cpu_us", result->books_cpu_us);
    if (!json) return qr_cli_fail("out of memory");
    return qr_bench_emit(json, args->json, b->output_json);
}

/* ---- the command ------------------------------------------------------------------------------ */

static int measure(qr_cli_args *args, quire_model *model, recorder *r)
{
    quire_stats stats;
    quire_engine *engine = NULL;
    const qr_cli_bench_args *b = &args->bench;
    const step_plan plan = make_plan(b, args->engine.block_size);
    r->num_skip = plan.num_skip;
    r->num_prompts = plan.num_prompts;
    args->engine.max_num_batched_tokens = plan.budget;
    args->engine.max_num_seqs = b->num_seqs + 1;
    args->engine.on_step = on_step;
    args->engine.user = r;
    if (qr_cli_create_engine(args, model, &engine) != QR_CLI_OK) return QR_CLI_FAILED;
    quire_engine_get_stats(engine, &stats);
    int exit_status = QR_CLI_OK;
    int longest = plan.shared_len + b->prompt_chunk + 1;
    if (b->num_seqs > 0 && longest < b->context_len + plan.decode_output_len)
        longest = b->context_len + plan.decode_output_len;
    if (longest > stats.max_model_len)
        exit_status = qr_cli_fail("sequences reach %d tokens until %d steps are measured, and %d fit", longest,
                                  b->num_steps, stats.max_model_len);
    else if (plan.num_blocks > stats.num_kv_blocks)
        exit_status = qr_cli_fail("this takes %lld KV blocks, and there are %lld: see --kv-cache-memory-bytes",
                                  (long long)plan.num_blocks, (long long)stats.num_kv_blocks);
    if (exit_status == QR_CLI_OK) {
        qr_cli_describe(model, engine);
        exit_status = record(engine, b, &plan, r);
    }
    quire_engine_destroy(engine);
    return exit_status;
}

int qr_cli_run_bench_step(qr_cli_args *args)
{
    quire_model *model = NULL;
    const qr_cli_bench_args *b = &args->bench;
    if (b->num_seqs + b->prompt_chunk < 1 || b->num_steps < 1 || (b->num_seqs > 0 && b->context_len < 1))
        return qr_cli_usage_error("bench step", "--num-seqs or --prompt-chunk, --num-steps and --context-len must be "
                                                "at least 1");
    recorder r = {.lock = PTHREAD_MUTEX_INITIALIZER,
                  .changed = PTHREAD_COND_INITIALIZER,
                  .num_seqs = b->num_seqs,
                  .num_chunks = b->prompt_chunk > 0,
                  .prompt_chunk = b->prompt_chunk,
                  .submitting = true,
                  .max_steps = b->num_steps};
    r.steps = qr_calloc((size_t)b->num_steps, sizeof *r.steps);
    int exit_status = r.steps ? qr_cli_open_model(args, false, &model) : qr_cli_fail("out of memory");
    if (exit_status == QR_CLI_OK) exit_status = measure(args, model, &r);
    if (exit_status == QR_CLI_OK) {
        const step_result result = summarize(&r);
        exit_status = report(args, model, &result);
    }
    quire_model_close(model);
    qr_free(r.steps);
    return exit_status;
}
