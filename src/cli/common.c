#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* ---- model and engine ------------------------------------------------------------------------- */

static void on_load_progress(void *user, double fraction) { qr_cli_progress_draw(user, fraction, ""); }

/* Of several ranks rank 0 says when to stop: the others would leave it alone in the middle of a step. */
static void set_stop_signals(void (*handler)(int))
{
    signal(SIGINT, handler);
    signal(SIGTERM, handler);
}

int qr_cli_open_model(qr_cli_args *args, bool vocab_only, quire_model **out)
{
    quire_error error;
    qr_cli_progress progress;
    qr_cli_progress_start(&progress, "loading", 1000000);
    args->model.vocab_only = vocab_only;
    args->model.on_progress = on_load_progress;
    args->model.user = &progress;
    const bool has_ranks = args->model.tensor_parallel_size > 1 && !vocab_only;
    if (has_ranks) set_stop_signals(SIG_IGN);
    quire_status status = quire_model_open(args->words[0], &args->model, out, &error);
    if (has_ranks) set_stop_signals(SIG_DFL);
    if (has_ranks && status == QUIRE_OK) qr_cli_ranks_are_ready();
    qr_cli_progress_end(&progress);
    args->rank_ended = status == QUIRE_RANK_ENDED;
    if (args->rank_ended) return QR_CLI_FAILED;
    return status == QUIRE_OK ? QR_CLI_OK : qr_cli_fail("%s", error.message);
}

/* The baselines cut no prompts and share nothing: by default both is off, and asking for it is a mistake. */
static int set_baseline(qr_cli_args *args)
{
    const char *name = args->engine.kv_allocator;
    if (strcmp(name, "vllm") == 0) return QR_CLI_OK;
    if (!args->chunked_prefill_given) args->engine.enable_chunked_prefill = false;
    if (!args->prefix_caching_given) args->engine.enable_prefix_caching = false;
    if (args->engine.enable_chunked_prefill)
        return qr_cli_fail("--enable-chunked-prefill: %s computes prompts whole", name);
    if (args->engine.enable_prefix_caching && strcmp(name, "vllm-v0") != 0)
        return qr_cli_fail("--enable-prefix-caching: %s shares nothing", name);
    return QR_CLI_OK;
}

int qr_cli_create_engine(qr_cli_args *args, quire_model *model, quire_engine **out)
{
    quire_error error;
    if (set_baseline(args) != QR_CLI_OK) return QR_CLI_FAILED;
    args->engine.seed = args->seed;
    bool swaps = args->engine.preemption_mode && strcmp(args->engine.preemption_mode, "recompute") != 0;
    double swap_gib = args->swap_space_gib > 0 ? args->swap_space_gib : swaps ? 4 : 0;
    args->engine.swap_space_bytes = (size_t)(swap_gib * (1 << 30));
    if (args->prefix_cache_space_gib > 0)
        args->engine.prefix_cache_space_bytes = (size_t)(args->prefix_cache_space_gib * (1 << 30));
    if (quire_engine_create(model, &args->engine, out, &error) == QUIRE_OK) return QR_CLI_OK;
    return qr_cli_fail("%s", error.message);
}

void qr_cli_describe(const quire_model *model, quire_engine *engine)
{
    quire_model_info info;
    quire_stats stats;
    char weights[32], cache[32];
    quire_model_get_info(model, &info);
    quire_engine_get_stats(engine, &stats);
    qr_cli_format_bytes((double)info.weights_bytes, weights, sizeof weights);
    qr_cli_format_bytes((double)stats.kv_cache_bytes, cache, sizeof cache);
    int64_t num_tokens = stats.num_kv_blocks * stats.block_size;
    int64_t blocks_per_seq = (stats.max_model_len + stats.block_size - 1) / stats.block_size;
    qr_cli_note("model     %s (%s, %s, %.3g M parameters, %s)", info.name, info.architecture, info.weight_dtype,
                (double)info.num_parameters / 1e6, weights);
    qr_cli_note("compute   %s%s on %s", info.compute_dtype, info.batch_invariant ? "" : ", not batch-invariant",
                info.device);
    if (info.tensor_parallel_size > 1)
        qr_cli_note("ranks     %d, each with a part of the model; weights above are of rank 0",
                    info.tensor_parallel_size);
    if (stats.max_model_len > info.max_position_embeddings)
        qr_cli_note("warning   --max-model-len %d is beyond the %d positions that this model was trained for",
                    stats.max_model_len, info.max_position_embeddings);
    if (strcmp(stats.kv_allocator, "vllm") != 0)
        qr_cli_note("warning   --kv-allocator %s is there to compare with; vllm serves more", stats.kv_allocator);
    double num_seqs = (double)stats.num_kv_blocks / (double)blocks_per_seq;
    qr_cli_note("KV cache  %lld block%s of %d = %lld tokens = %.4g sequence%s of %d (%s, %s)",
                (long long)stats.num_kv_blocks, stats.num_kv_blocks == 1 ? "" : "s", stats.block_size,
                (long long)num_tokens, num_seqs, num_seqs == 1 ? "" : "s", stats.max_model_len, stats.kv_cache_dtype,
                cache);
    if (stats.max_prefix_store_blocks > 0)
        qr_cli_note("prefixes  %lld blocks stored, room for %lld", (long long)stats.num_prefix_store_blocks,
                    (long long)stats.max_prefix_store_blocks);
    if (stats.num_speculative_tokens > 0)
        qr_cli_note("drafts    %d tokens at a time at most (%s)", stats.num_speculative_tokens,
                    stats.speculative_method);
}

/* ---- input ------------------------------------------------------------------------------------ */

quire_status qr_cli_read_file(const char *path, qr_buf *out, quire_error *error)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!file) return qr_fail(error, QUIRE_IO, "%s: %s", path, strerror(errno));
    quire_status status = QUIRE_OK;
    size_t got;
    do {
        if (qr_buf_reserve(out, 1 << 16) != 0) {
            status = qr_fail_nomem(error, path, out->len);
            break;
        }
        got = fread(out->data + out->len, 1, 1 << 16, file);
        out->len += got;
    } while (got > 0);
    if (status == QUIRE_OK && ferror(file)) status = qr_fail(error, QUIRE_IO, "%s: %s", path, strerror(errno));
    if (out->data) out->data[out->len] = '\0';
    if (file != stdin) fclose(file);
    return status;
}

quire_status qr_cli_parse_ids(const char *text, int32_t **out, size_t *out_count, quire_error *error)
{
    size_t count = 0, max = 1;
    for (const char *c = text; *c; c++) max += *c == ',';
    int32_t *ids = qr_calloc(max, sizeof *ids);
    if (!ids) return qr_fail_nomem(error, "token ids", max * sizeof *ids);
    const char *at = text + strspn(text, " \t\r\n");
    bool bracket = *at == '[';
    at += bracket;
    while (at += strspn(at, " \t\r\n"), *at && *at != ']') {
        char *end;
        errno = 0;
        long value = strtol(at, &end, 10);
        bool ok = end != at && errno == 0 && value >= 0 && value <= INT32_MAX;
        end += strspn(end, " \t\r\n");
        if (!ok || (*end && *end != ',' && *end != ']')) {
            quire_status status =
                qr_fail(error, QUIRE_INVALID, "'%.20s' is not a token id; write 1,2,3 or [1, 2, 3]", at);
            qr_free(ids);
            return status;
        }
        ids[count++] = (int32_t)value;
        at = end + (*end == ',');
    }
    if (bracket ? *at != ']' || at[1 + strspn(at + 1, " \t\r\n")] : *at == ']') {
        qr_free(ids);
        return qr_fail(error, QUIRE_INVALID, "token ids: brackets do not match; write 1,2,3 or [1, 2, 3]");
    }
    *out = ids;
    *out_count = count;
    return QUIRE_OK;
}
