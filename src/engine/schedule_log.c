#define _POSIX_C_SOURCE 200809L
#include "engine/schedule_log.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { BUFFER_BYTES = 1 << 18 };

struct qr_schedule_log {
    FILE *file;
    char *path, *buffer;
    int64_t opened_us, step_cpu_us;
    uint64_t num_steps;
};

static int64_t now_us(const qr_schedule_log *log) { return qr_clock_us() - log->opened_us; }

/* Time that this thread has computed: what a step costs when other programs take turns. */
static int64_t cpu_us(void)
{
    struct timespec t;
    return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0 ? (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000 : 0;
}

static const char *json_bool(bool value) { return value ? "true" : "false"; }

static void write_options(qr_schedule_log *log, const char *model, const qr_sched_options *o,
                          int num_speculative_tokens)
{
    static const char *const modes[] = {"recompute", "swap", "auto"}; /* in qr_preemption_mode's order */
    json_t *name = json_string(model);
    char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    json_decref(name);
    fprintf(log->file,
            "{\"schedule\": 1, \"model\": %s, \"kv_allocator\": \"%s\", \"num_blocks\": %" PRId64
            ", \"num_swap_blocks\": %" PRId64 ", \"block_size\": %d, \"max_num_seqs\": %d, "
            "\"max_num_batched_tokens\": %d, \"max_model_len\": %d, \"max_chunk_tokens\": %d, "
            "\"enable_chunked_prefill\": %s, \"enable_prefix_caching\": %s, \"policy\": \"%s\", "
            "\"preemption_mode\": \"%s\", \"num_speculative_tokens\": %d}\n",
            quoted ? quoted : "\"\"", qr_kv_allocator_name(o->kv_allocator), o->num_blocks, o->num_swap_blocks,
            o->block_size, o->max_num_seqs, o->max_num_batched_tokens, o->max_model_len, o->max_chunk_tokens,
            json_bool(o->enable_chunked_prefill), json_bool(o->enable_prefix_caching), qr_sched_policy_name(o->policy),
            modes[o->preemption_mode], num_speculative_tokens);
    free(quoted);
}

quire_status qr_schedule_log_open(const char *path, const char *model, const qr_sched_options *options,
                                  int num_speculative_tokens, qr_schedule_log **out, quire_error *error)
{
    qr_schedule_log *log = qr_calloc(1, sizeof *log);
    if (!log) return qr_fail_nomem(error, "the schedule log", sizeof *log);
    log->path = qr_strdup(path);
    log->buffer = qr_malloc(BUFFER_BYTES);
    log->opened_us = qr_clock_us();
    quire_status status = QUIRE_OK;
    if (!log->path || !log->buffer)
        status = qr_fail_nomem(error, "the schedule log", BUFFER_BYTES);
    else if (!(log->file = fopen(path, "w")))
        status = qr_fail(error, QUIRE_IO, "schedule_log: %s: %s", path, strerror(errno));
    if (status != QUIRE_OK) {
        qr_schedule_log_close(log);
        return status;
    }
    setvbuf(log->file, log->buffer, _IOFBF, BUFFER_BYTES);
    write_options(log, model, options, num_speculative_tokens);
    *out = log;
    return QUIRE_OK;
}

void qr_schedule_log_close(qr_schedule_log *log)
{
    if (!log) return;
    const bool failed = log->file && ferror(log->file);
    if (log->file && (fclose(log->file) != 0 || failed))
        qr_log(QR_LOG_ERROR, "schedule_log: %s: %s", log->path, strerror(errno));
    qr_free(log->buffer);
    qr_free(log->path);
    qr_free(log);
}

static void write_ids(qr_schedule_log *log, const int32_t *ids, int32_t count)
{
    putc('[', log->file);
    for (int32_t i = 0; i < count; i++) fprintf(log->file, i > 0 ? ",%d" : "%d", ids[i]);
    putc(']', log->file);
}

void qr_schedule_log_request(qr_schedule_log *log, const qr_request *r)
{
    if (!log || ferror(log->file)) return;
    fprintf(log->file,
            "{\"request\": %" PRIu64 ", \"time_us\": %" PRId64 ", \"n\": %d, \"max_output_tokens\": %d, "
            "\"expected_output_tokens\": %d, \"priority\": %" PRId64 ", \"extra_key\": \"%016" PRIx64
            "\", \"lockstep\": %s, \"no_prefix_read\": %s, \"prompt\": ",
            r->arrival, now_us(log), r->n, r->max_output_tokens, r->expected_output_tokens, r->priority, r->extra_key,
            json_bool(r->lockstep), json_bool(r->no_prefix_read));
    write_ids(log, r->prompt_token_ids, r->num_prompt_tokens);
    fputs("}\n", log->file);
}

void qr_schedule_log_step(qr_schedule_log *log, const qr_sched_step *step, int64_t start_us)
{
    if (!log || ferror(log->file)) return;
    fprintf(log->file,
            "{\"step\": %" PRIu64 ", \"start_us\": %" PRId64 ", \"preempted\": %d, \"copied_blocks\": %d, "
            "\"swapped_blocks\": %d, \"entries\": [",
            ++log->num_steps, start_us - log->opened_us, step->num_preempted, step->num_copies,
            step->num_swap_outs + step->num_swap_ins);
    for (int i = 0; i < step->num_entries; i++) {
        const qr_sched_entry *e = &step->entries[i];
        fprintf(log->file, "%s[%" PRIu64 ",%d,%d,%d]", i > 0 ? "," : "", e->request->arrival, e->seq->idx, e->start,
                e->num_new_tokens);
    }
    fputs("]}\n", log->file);
    log->step_cpu_us = cpu_us();
}

void qr_schedule_log_computed(qr_schedule_log *log)
{
    if (!log || ferror(log->file)) return;
    fprintf(log->file, "{\"computed\": %" PRIu64 ", \"end_us\": %" PRId64 ", \"cpu_us\": %" PRId64 "}\n",
            log->num_steps, now_us(log), cpu_us() - log->step_cpu_us);
}

void qr_schedule_log_finished(qr_schedule_log *log, const qr_request *r)
{
    if (!log || ferror(log->file)) return;
    if (r->status == QR_FINISHED_ABORTED) {
        fprintf(log->file, "{\"aborted\": %" PRIu64 "}\n", r->arrival);
        return;
    }
    fprintf(log->file, "{\"finished\": %" PRIu64 ", \"outputs\": [", r->arrival);
    for (int i = 0; i < r->n; i++) {
        if (i > 0) putc(',', log->file);
        write_ids(log, r->seqs[i].output_token_ids, r->seqs[i].num_output_tokens);
    }
    fputs("]}\n", log->file);
}
