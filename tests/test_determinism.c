/* determinism: a request gives the same tokens, log probabilities and text whatever else runs, compared as bytes.
 *
 *   64 requests ── one by one ──► reference ═╗
 *        │                                   ╠═ equal?
 *        └─ all at once, few blocks (hundreds of preemptions), steps of 7 tokens, blocks of 8 and 128, 2 threads,
 *           no prefix cache, prefixes out of a file (also a damaged one), no chunks, by priority, swapped out, and all
 *           of it together ──► results ═╝
 * Once more with a system prompt that all begin with, and with the model cut over two and three ranks.
 *
 * On CUDA, on one device and on several (tests/cuda_shim where there is no GPU) the same bytes as on the CPU, of some
 * of it, steps that only decode as graphs; on tensor cores the same bytes as alone. On the tiny checkpoints of
 * tests/golden/tiny (every architecture, and every type of KV cache) and, smaller, on the default model. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend_sets.h"
#include "base/mem.h"
#include "fake_ranks.h"

enum { MAX_REQUESTS = 64, MAX_N = 2, MAX_PROMPT = 330, SHORT_PROMPT = 120, SHARED_PREFIX = 40, SYSTEM_PROMPT = 300 };

typedef enum kind { DEFAULT_MODEL, TINY, TINY_SYSTEM_PROMPT } kind;

/* What one sequence gave, as bytes. */
typedef struct result {
    qr_buf tokens, logprobs, prompt_logprobs, text;
    quire_finish_reason finish_reason;
} result;

typedef struct run_results {
    result seqs[MAX_REQUESTS][MAX_N];
    uint64_t num_preemptions, num_drafted, num_accepted; /* tokens */
    uint64_t num_stored_hits, num_broken;                /* tokens, blocks */
} run_results;

typedef struct workload {
    int num_requests, max_model_len;
    int32_t prompts[MAX_REQUESTS][MAX_PROMPT];
    quire_request_options options[MAX_REQUESTS];
} workload;

typedef struct setting {
    const char *name;
    bool one_by_one, no_prefix_caching, no_chunks, swap;
    bool stored; /* prefixes in a file: three engines, one after the other, the file is damaged before the last */
    int num_kv_blocks, max_num_batched_tokens, max_num_seqs, block_size, max_model_len;
    const char *policy, *speculative_config, *kv_allocator;
} setting;

#define NGRAM                                                                           \
    "{\"method\": \"ngram\", \"num_speculative_tokens\": 5, \"prompt_lookup_max\": 3, " \
    "\"prompt_lookup_min\": 1, \"adaptive\": "
#define DRAFT(model) "{\"model\": \"" model "\", \"num_speculative_tokens\": 4, \"adaptive\": false}"
#define DEFAULT_PATH "models/SmolLM2-135M-Instruct.Q4_1.gguf"

static uint64_t random_state;

static int random_below(int n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((random_state >> 33) % (uint64_t)n);
}

static const quire_logit_bias few_tokens[] = {{.token_id = 100, .bias = 50}, {101, 50}, {102, 48}};
static const char *const stop_strings[] = {". The", "ing "};

/* Mixed lengths and every kind of sampling; a third of the prompts begin alike, all of them with a system prompt. */
static void make_workload(workload *w, int num_requests, int vocab_size, kind kind)
{
    int32_t shared[SHARED_PREFIX];
    bool is_tiny = kind != DEFAULT_MODEL;
    random_state = 42;
    w->num_requests = num_requests;
    w->max_model_len = kind == TINY_SYSTEM_PROMPT ? 512 : 256;
    for (int i = 0; i < SHARED_PREFIX; i++) shared[i] = random_below(vocab_size);
    for (int i = 0; i < num_requests; i++) {
        quire_request_options *o = &w->options[i];
        int num_tokens = 1 + random_below(i % 8 == 0 ? SHORT_PROMPT : i % 3 == 0 ? SHARED_PREFIX + 10 : 12);
        for (int t = 0; t < SHORT_PROMPT; t++)
            w->prompts[i][t] = i % 3 == 0 && t < SHARED_PREFIX ? shared[t] : random_below(vocab_size);
        if (kind == TINY_SYSTEM_PROMPT) {
            num_tokens = SYSTEM_PROMPT + 1 + num_tokens % (MAX_PROMPT - SYSTEM_PROMPT);
            for (int t = 0; t < MAX_PROMPT; t++)
                w->prompts[i][t] = t < SYSTEM_PROMPT ? (7 * t + 3) % vocab_size : random_below(vocab_size);
        }
        quire_request_options_init(o);
        o->prompt_token_ids = w->prompts[i];
        o->num_prompt_tokens = (size_t)num_tokens;
        o->priority = random_below(5);
        o->sampling.max_tokens = i % 8 == 0 ? 10 : is_tiny ? 40 + random_below(50) : 20 + random_below(20);
        o->sampling.detokenize = !is_tiny; /* the tiny checkpoints have no tokenizer */
        o->sampling.temperature = i % 3 == 0 ? 0 : 0.5 + 0.1 * random_below(10);
        o->sampling.has_seed = true;
        o->sampling.seed = (uint64_t)random_below(1000);
        o->sampling.ignore_eos = i % 4 != 0;
        o->sampling.logprobs = i % 4 == 1 ? -1 : i % 4;
        o->sampling.prompt_logprobs = i % 16 == 2 ? 1 : -1;
        o->sampling.n = i % 7 == 3 ? 2 : 1;
        if (i % 5 == 1) o->sampling.top_k = 20;
        if (i % 5 == 2) o->sampling.top_p = 0.9;
        if (i % 5 == 3) o->sampling.min_p = 0.02;
        if (i % 6 == 4) o->sampling.repetition_penalty = 1.2;
        if (i % 6 == 5) o->sampling.frequency_penalty = 0.5;
        if (i % 5 == 4) { /* says the same again and again: drafts are often right */
            o->sampling.logit_bias = few_tokens;
            o->sampling.num_logit_bias = i % 10 == 9 ? 3 : 2;
        }
        if (i % 10 == 9) { /* ends at the third of them, but not at once */
            o->sampling.stop_token_ids = &few_tokens[2].token_id;
            o->sampling.num_stop_token_ids = 1;
            o->sampling.min_tokens = 15;
        }
        if (!is_tiny && i % 3 == 1) {
            o->sampling.stop = stop_strings;
            o->sampling.num_stop = 2;
        }
    }
}

/* ---- gathering -------------------------------------------------------------------------------- */

static void append(qr_buf *buf, const void *data, size_t bytes)
{
    assert_int_equal(qr_buf_append(buf, data, bytes), 0);
}

static void append_logprobs(qr_buf *buf, const quire_token_logprobs *lp)
{
    append(buf, &lp->token_id, sizeof lp->token_id);
    append(buf, &lp->rank, sizeof lp->rank);
    append(buf, &lp->logprob, sizeof lp->logprob);
    append(buf, lp->top_ids, (size_t)lp->num_top * sizeof *lp->top_ids);
    append(buf, lp->top_logprobs, (size_t)lp->num_top * sizeof *lp->top_logprobs);
}

static void take(result *r, const quire_output *output)
{
    append(&r->tokens, output->token_ids, (size_t)output->num_tokens * sizeof *output->token_ids);
    append(&r->text, output->text, output->text_bytes);
    for (int t = 0; output->logprobs && t < output->num_tokens; t++)
        append_logprobs(&r->logprobs, &output->logprobs[t]);
    for (int t = 0; output->prompt_logprobs && t < output->num_prompt_tokens; t++)
        append_logprobs(&r->prompt_logprobs, &output->prompt_logprobs[t]);
    if (output->finish_reason != QUIRE_FINISH_NONE) r->finish_reason = output->finish_reason;
    if (output->finish_reason == QUIRE_FINISH_ERROR) fail_msg("engine: %s", output->error_message);
}

static void finish_request(quire_request *request, result *seqs)
{
    const quire_output *output = NULL;
    do {
        assert_int_equal(quire_request_next(request, 60000, &output), QUIRE_OK);
        take(&seqs[output->index], output);
    } while (!output->request_finished);
    quire_request_release(request);
}

static quire_request *submit(quire_engine *engine, const quire_request_options *options)
{
    quire_request *request = NULL;
    quire_error error;
    quire_status status = quire_submit(engine, options, &request, &error);
    if (status != QUIRE_OK) fail_msg("submit: %s", error.message);
    return request;
}

static const char *kv_cache_dtype; /* of every run */
static const char *device = "cpu"; /* of all but the reference */
static const char *compute_dtype;  /* "tensor": the reference is CUDA's too */

static char store_folder[] = "/tmp/quire-determinism-XXXXXX";

/* The folder's file, and bits of one byte in every 20,000 flipped; removed. */
static void for_stored_file(bool damage)
{
    DIR *folder = opendir(store_folder);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        char path[512];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", store_folder, entry->d_name);
        if (entry->d_name[0] == '.' || stat(path, &st) != 0) continue;
        const int fd = open(path, O_RDWR);
        for (off_t at = 4096; damage && at < st.st_size; at += random_below(40000)) {
            char byte = 0;
            assert_int_equal(pread(fd, &byte, 1, at), 1);
            byte ^= 1 << random_below(8);
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        close(fd);
        if (!damage) unlink(path);
    }
    closedir(folder);
}

/* Run the workload in an engine of its own; afterwards every block must be free again. */
static void run(quire_model *model, const workload *w, const setting *s, run_results *out)
{
    quire_engine_options options;
    quire_engine *engine;
    quire_error error;
    quire_stats stats;
    quire_request *requests[MAX_REQUESTS];
    memset(out, 0, sizeof *out);
    quire_engine_options_init(&options);
    options.num_kv_blocks = s->num_kv_blocks ? s->num_kv_blocks : 2000;
    options.max_model_len = s->max_model_len ? s->max_model_len : w->max_model_len;
    options.enable_prefix_caching = !s->no_prefix_caching;
    options.enable_chunked_prefill = !s->no_chunks;
    if (s->max_num_batched_tokens) options.max_num_batched_tokens = s->max_num_batched_tokens;
    if (s->max_num_seqs) options.max_num_seqs = s->max_num_seqs;
    if (s->block_size) options.block_size = s->block_size;
    if (s->policy) options.scheduling_policy = s->policy;
    options.speculative_config = s->speculative_config;
    if (s->kv_allocator) options.kv_allocator = s->kv_allocator;
    if (s->swap) options.preemption_mode = "swap", options.swap_space_bytes = 1 << 20;
    options.kv_cache_dtype = kv_cache_dtype;
    options.prefix_cache_path = s->stored ? store_folder : NULL;
    options.prefix_cache_space_bytes = 4 << 20; /* less than there is to store */
    if (quire_engine_create(model, &options, &engine, &error) != QUIRE_OK) fail_msg("%s: %s", s->name, error.message);
    for (int i = 0; i < w->num_requests; i++) {
        requests[i] = submit(engine, &w->options[i]);
        if (s->one_by_one) finish_request(requests[i], out->seqs[i]);
    }
    for (int i = 0; !s->one_by_one && i < w->num_requests; i++) finish_request(requests[i], out->seqs[i]);
    assert_int_equal(quire_engine_drain(engine, -1), QUIRE_OK);
    for (int i = 0; i < 1000; i++) { /* the last step may still be tidying up */
        quire_engine_get_stats(engine, &stats);
        if (stats.num_free_kv_blocks == stats.num_kv_blocks) break;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    assert_int_equal(stats.num_free_kv_blocks, stats.num_kv_blocks);
    if (s->swap) assert_true(stats.num_swapped_groups > 0);
    out->num_preemptions = stats.num_preemptions;
    out->num_stored_hits = stats.external_prefix_cache_hits;
    out->num_broken = stats.prefix_store_broken;
    out->num_drafted = stats.spec_decode_num_draft_tokens;
    out->num_accepted = stats.spec_decode_num_accepted_tokens;
    quire_engine_destroy(engine);
}

static void free_results(run_results *r)
{
    for (int i = 0; i < MAX_REQUESTS; i++) {
        for (int n = 0; n < MAX_N; n++) {
            qr_free(r->seqs[i][n].tokens.data);
            qr_free(r->seqs[i][n].logprobs.data);
            qr_free(r->seqs[i][n].prompt_logprobs.data);
            qr_free(r->seqs[i][n].text.data);
        }
    }
}

/* ---- comparing -------------------------------------------------------------------------------- */

static void compare_bytes(const char *model, const char *name, int request, int n, const char *what, const qr_buf *a,
                          const qr_buf *b)
{
    size_t at = 0;
    while (at < a->len && at < b->len && a->data[at] == b->data[at]) at++;
    if (at < a->len || at < b->len)
        fail_msg("%s, %s: request %d, sequence %d: %s differ at byte %zu of %zu and %zu", model, name, request, n, what,
                 at, a->len, b->len);
}

static void compare(const char *model, const char *name, const run_results *a, const run_results *b, int num_requests)
{
    for (int i = 0; i < num_requests; i++) {
        for (int n = 0; n < MAX_N; n++) {
            const result *x = &a->seqs[i][n], *y = &b->seqs[i][n];
            compare_bytes(model, name, i, n, "tokens", &x->tokens, &y->tokens);
            compare_bytes(model, name, i, n, "logprobs", &x->logprobs, &y->logprobs);
            compare_bytes(model, name, i, n, "prompt logprobs", &x->prompt_logprobs, &y->prompt_logprobs);
            compare_bytes(model, name, i, n, "texts", &x->text, &y->text);
            assert_int_equal(x->finish_reason, y->finish_reason);
        }
    }
}

static const setting alone = {.name = "one by one", .one_by_one = true};

/* The longest request has 2 sequences of 188 tokens: 48 blocks of 8. */
static const setting settings[] = {
    {.name = "all at once"},
    {.name = "few blocks", .num_kv_blocks = 48, .block_size = 8},
    {.name = "steps of 7 tokens", .max_num_batched_tokens = 7, .max_num_seqs = 7},
    {.name = "blocks of 8", .block_size = 8},
    {.name = "blocks of 128", .block_size = 128},
    {.name = "no prefix cache", .no_prefix_caching = true},
    {.name = "no chunks", .no_chunks = true},
    {.name = "sixty blocks", .num_kv_blocks = 60},
    {.name = "by priority, few blocks", .policy = "priority", .num_kv_blocks = 24},
    {.name = "prefixes out of a file", .stored = true},
    {.name = "prefixes out of a file, few blocks", .stored = true, .num_kv_blocks = 48, .block_size = 8},
    {.name = "prefixes out of a file, swapped out", .stored = true, .num_kv_blocks = 48, .block_size = 8, .swap = true},
    {.name = "n-grams, as many as pay", .speculative_config = NGRAM "true}"},
    {.name = "n-grams", .speculative_config = NGRAM "false}"},
    {.name = "n-grams, few blocks, steps of 40 tokens",
     .speculative_config = NGRAM "false}",
     .num_kv_blocks = 48,
     .block_size = 8,
     .max_num_batched_tokens = 40,
     .max_num_seqs = 23},
    {.name = "whole prompts apart",
     .kv_allocator = "vllm-v0",
     .num_kv_blocks = 24,
     .speculative_config = NGRAM "false}"},
    {.name = "reserved at the maximum", .kv_allocator = "orca-max", .num_kv_blocks = 55},
    {.name = "reserved in powers of two",
     .kv_allocator = "orca-pow2",
     .num_kv_blocks = 90,
     .block_size = 8,
     .speculative_config = NGRAM "false}"},
    {.name = "reserved as needed", .kv_allocator = "orca-oracle", .num_kv_blocks = 75, .block_size = 8},
    {.name = "in whole batches", .kv_allocator = "faster-transformer", .num_kv_blocks = 55},
    {.name = "swapped out", .num_kv_blocks = 48, .block_size = 8, .swap = true},
    {.name = "everything",
     .speculative_config = NGRAM "false}",
     .num_kv_blocks = 48,
     .block_size = 8,
     .max_num_batched_tokens = 23,
     .max_num_seqs = 23,
     .no_prefix_caching = true},
    {.name = "hardly any blocks",
     .num_kv_blocks = 18,
     .block_size = 8,
     .max_model_len = 144}, /* the default model's requests are shorter */
};
enum { NUM_SETTINGS = sizeof settings / sizeof *settings };
enum {
    AT_ONCE = 1,
    FEW = 2,
    BLOCKS_OF_128 = 16,
    SIXTY = 128,
    STORED = 512,
    STORED_FEW = 1024,
    STORED_SWAPPED = 2048,
    HARDLY_ANY = 1 << (NUM_SETTINGS - 1),
    EVERYTHING = HARDLY_ANY >> 1,
    SWAPPED = EVERYTHING >> 1,
    SOME = AT_ONCE | FEW | EVERYTHING,
    ALL = HARDLY_ANY - 1
};

static int num_ranks = 1; /* of every model */

static quire_model *open_model_on(const char *on, const char *path, int threads)
{
    quire_model_options options;
    quire_model *model = NULL;
    quire_error error;
    quire_model_options_init(&options);
    options.threads = threads;
    options.device = on;
    if (compute_dtype) options.compute_dtype = compute_dtype;
    const quire_status status = num_ranks == 1 ? quire_model_open(path, &options, &model, &error)
                                               : fake_ranks_open(num_ranks, path, &options, &model, &error);
    if (status != QUIRE_OK) fail_msg("%s: %s", path, error.message);
    return model;
}

static quire_model *open_model(const char *path, int threads) { return open_model_on(device, path, threads); }

/* Engine after engine with the same file. */
static void check_stored(quire_model *model, const char *path, const workload *w, const setting *s, const char *name,
                         const run_results *reference)
{
    static run_results got;
    for (int round = 0; round < 3; round++) {
        if (round == 2) for_stored_file(true);
        run(model, w, s, &got);
        compare(path, name, reference, &got, w->num_requests);
        printf("%s, %s, engine %d: %llu preemptions, %llu tokens found in the file, %llu blocks damaged\n", path, name,
               round, (unsigned long long)got.num_preemptions, (unsigned long long)got.num_stored_hits,
               (unsigned long long)got.num_broken);
        if (round == 1) assert_true(got.num_stored_hits > 0 && got.num_broken == 0);
        if (round == 2) assert_true(got.num_stored_hits + got.num_broken > 0);
        free_results(&got);
    }
    for_stored_file(false);
}

static void run_and_compare(quire_model *model, const char *path, const workload *w, const setting *setting,
                            const char *name, const run_results *reference, run_results *got)
{
    run(model, w, setting, got);
    compare(path, name, reference, got, w->num_requests);
    printf("%s, %s: %llu preemptions, %llu of %llu drafts accepted\n", path, name,
           (unsigned long long)got->num_preemptions, (unsigned long long)got->num_accepted,
           (unsigned long long)got->num_drafted);
    free_results(got);
}

/* Compare the settings of two masks, for 1 and for 2 threads, to one by one; returns all preemptions. */
static uint64_t check_model(const char *path, int num_requests, uint32_t mask_1, uint32_t mask_2, kind kind)
{
    static workload w;
    static run_results reference, got;
    uint64_t num_preemptions = 0;
    for (int threads = 1; threads <= 2; threads++) {
        quire_model *model = open_model(path, threads);
        if (threads == 1) {
            quire_model *cpu = open_model_on(compute_dtype ? device : "cpu", path, 1);
            quire_model_info info;
            quire_model_get_info(cpu, &info);
            make_workload(&w, num_requests, info.vocab_size, kind);
            run(cpu, &w, &alone, &reference);
            quire_model_close(cpu);
        }
        for (int i = 0; i < NUM_SETTINGS; i++) {
            char name[64];
            if (!((threads == 1 ? mask_1 : mask_2) >> i & 1)) continue;
            snprintf(name, sizeof name, "%s, %d threads", settings[i].name, threads);
            if (settings[i].stored) {
                check_stored(model, path, &w, &settings[i], name, &reference);
                continue;
            }
            run_and_compare(model, path, &w, &settings[i], name, &reference, &got);
            const char *config = settings[i].speculative_config;
            if (config && strstr(config, "false")) assert_true(got.num_accepted > 20);
            num_preemptions += got.num_preemptions;
        }
        quire_model_close(model);
    }
    free_results(&reference);
    return num_preemptions;
}

static void tiny_llama_in_every_setting(void **state)
{
    (void)state;
    uint64_t num_preemptions = check_model("tests/golden/tiny/llama", MAX_REQUESTS, ALL, SOME, TINY);
    printf("tiny llama: %llu preemptions\n", (unsigned long long)num_preemptions);
    assert_true(num_preemptions >= 200);
}

/* Queries of many requests meet the system prompt's blocks together: in one batch, after preemptions, in windows. */
static void tiny_system_prompt(void **state)
{
    (void)state;
    const uint32_t mask = AT_ONCE | BLOCKS_OF_128 | SIXTY;
    assert_true(check_model("tests/golden/tiny/llama", MAX_REQUESTS, mask, mask, TINY_SYSTEM_PROMPT) > 0);
    check_model("tests/golden/tiny/mistral_window", 12, AT_ONCE, BLOCKS_OF_128, TINY_SYSTEM_PROMPT);
}

static void quantized_kv_caches(void **state)
{
    (void)state;
    static const char *const dtypes[] = {"int8", "fp8_e4m3", "fp8_e5m2"};
    for (int i = 0; i < 3; i++) {
        kv_cache_dtype = dtypes[i];
        assert_true(check_model("tests/golden/tiny/llama", 40, FEW | SWAPPED | STORED_FEW, EVERYTHING, TINY) > 0);
    }
    kv_cache_dtype = NULL;
}

static void other_architectures(void **state)
{
    (void)state;
    static const char *const names[] = {"mistral_window", "qwen2", "qwen3", "opt", "gpt2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "tests/golden/tiny/%s", names[i]);
        check_model(path, 12, FEW | STORED, EVERYTHING, TINY);
    }
}

static void several_ranks(void **state)
{
    (void)state;
    num_ranks = 2;
    assert_true(check_model("tests/golden/tiny/llama", 40, FEW | SWAPPED | STORED_SWAPPED | EVERYTHING, AT_ONCE, TINY) >
                0);
    num_ranks = 3;
    check_model("tests/golden/tiny/gpt2", 12, FEW | STORED, EVERYTHING, TINY);
    num_ranks = 1;
}

/* Steps that were done as a graph; on a GPU nobody counts. */
static uint64_t num_graph_launches(void)
{
    void *shim = dlopen(cuda_shim_path(), RTLD_NOW | RTLD_NOLOAD);
    const unsigned long long *count = shim ? dlsym(shim, "shim_graph_launches") : NULL;
    const uint64_t num = count ? *count : 0;
    if (shim) dlclose(shim);
    return num;
}

static void cuda_gives_the_bytes_of_the_cpu(void **state)
{
    (void)state;
    device = "cuda";
    check_model("tests/golden/tiny/llama", 8, SWAPPED, EVERYTHING, TINY);
    kv_cache_dtype = "int8";
    check_model("tests/golden/tiny/mistral_window", 2, AT_ONCE, 0, TINY_SYSTEM_PROMPT);
    kv_cache_dtype = NULL;
    const uint64_t num_graphs = num_graph_launches();
    printf("%llu steps as CUDA graphs\n", (unsigned long long)num_graphs);
    if (strcmp(getenv("QUIRE_CUDA_LIBRARY"), cuda_shim_path()) == 0) assert_true(num_graphs > 30);
    setenv("QUIRE_SHIM_GRAPHS", "0", 1); /* there is no memory for them */
    check_model("tests/golden/tiny/gpt2", 3, FEW, 0, TINY);
    unsetenv("QUIRE_SHIM_GRAPHS");
    assert_true(num_graph_launches() == num_graphs);
    device = "cpu";
}

static void several_cuda_ranks(void **state)
{
    (void)state;
    if (!use_shim_ranks("3")) skip();
    device = "cuda";
    num_ranks = 2;
    check_model("tests/golden/tiny/llama", 8, FEW | SWAPPED | STORED, EVERYTHING, TINY);
    num_ranks = 3;
    check_model("tests/golden/tiny/gpt2", 4, FEW, 0, TINY);
    num_ranks = 1;
    device = "cpu";
}

/* Decode, prompts in chunks, matrices of few and many tokens: other kernels, the same bytes. */
static void tensor_cores_give_the_same_bytes_in_every_setting(void **state)
{
    (void)state;
    const uint64_t num_graphs = num_graph_launches();
    device = "cuda", compute_dtype = "tensor";
    check_model("tests/golden/tiny_gguf/quantized.gguf", 7, 0, EVERYTHING, TINY);
    kv_cache_dtype = "int8";
    check_model("tests/golden/tiny_gguf/quantized.gguf", 2, AT_ONCE, 0, TINY);
    if (num_graphs > 0) assert_true(num_graph_launches() > num_graphs + 30);
    device = "cpu";
    compute_dtype = kv_cache_dtype = NULL;
}

static void default_model(void **state)
{
    (void)state;
    const char *path = getenv("QUIRE_TEST_MODEL");
    if (!path) path = DEFAULT_PATH;
    if (access(path, R_OK) != 0) {
        printf("no model at %s: make model\n", path);
        skip();
    }
    check_model(path, 6, HARDLY_ANY | STORED_FEW, EVERYTHING, DEFAULT_MODEL);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(store_folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    for_stored_file(false);
    return rmdir(store_folder);
}

/* A model that guesses for itself is right whenever nothing was lost on the way: in prefixes found, forks, blocks
 * copied on write, swaps; another model of the vocabulary is mostly wrong. */
static void check_draft(const char *path, const setting *setting, int num_requests, kind kind, double min_accepted)
{
    static workload w;
    static run_results reference, got;
    quire_model *model = open_model(path, 1);
    quire_model_info info;
    quire_model_get_info(model, &info);
    make_workload(&w, num_requests, info.vocab_size, kind);
    run(model, &w, &alone, &reference);
    run_and_compare(model, path, &w, setting, setting->name, &reference, &got);
    assert_true(got.num_drafted > 100 && (double)got.num_accepted >= min_accepted * (double)got.num_drafted);
    assert_true(setting->num_kv_blocks == 0 || got.num_preemptions > 0);
    free_results(&reference);
    quire_model_close(model);
}

static void draft_models(void **state)
{
    (void)state;
    static const char llama[] = "tests/golden/tiny/llama";
    static const setting itself = {.name = "its own draft", .speculative_config = DRAFT("tests/golden/tiny/llama")};
    check_draft(llama, &itself, MAX_REQUESTS, TINY, 0.95);
    check_draft(llama, &itself, MAX_REQUESTS, TINY_SYSTEM_PROMPT, 0.95);
    setting tight = itself;
    tight.name = "its own draft, few blocks";
    tight.num_kv_blocks = 48, tight.block_size = 8, tight.max_num_batched_tokens = 60, tight.max_num_seqs = 23;
    check_draft(llama, &tight, MAX_REQUESTS, TINY, 0.95);
    tight.name = "its own draft, few blocks, swapping";
    tight.swap = true;
    check_draft(llama, &tight, MAX_REQUESTS, TINY, 0.95);
    tight.name = "another model, few blocks";
    tight.speculative_config = DRAFT("tests/golden/tiny/opt");
    check_draft("tests/golden/tiny/qwen2", &tight, MAX_REQUESTS, TINY, 0);
}

static void default_model_drafts_for_itself(void **state)
{
    (void)state;
    static const setting itself = {.name = "its own draft", .speculative_config = DRAFT(DEFAULT_PATH)};
    if (access(DEFAULT_PATH, R_OK) != 0) skip();
    check_draft(DEFAULT_PATH, &itself, 6, DEFAULT_MODEL, 0.95);
}

int main(void)
{
    use_cuda_shim();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_llama_in_every_setting),
        cmocka_unit_test(tiny_system_prompt),
        cmocka_unit_test(quantized_kv_caches),
        cmocka_unit_test(other_architectures),
        cmocka_unit_test(several_ranks),
        cmocka_unit_test(cuda_gives_the_bytes_of_the_cpu),
        cmocka_unit_test(several_cuda_ranks),
        cmocka_unit_test(tensor_cores_give_the_same_bytes_in_every_setting),
        cmocka_unit_test(default_model),
        cmocka_unit_test(draft_models),
        cmocka_unit_test(default_model_drafts_for_itself),
    };
    return cmocka_run_group_tests_name("determinism", tests, make_folder, remove_folder);
}
