#define _POSIX_C_SOURCE 200809L
#include "cli/batch.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/job.h"

enum { WINDOW_PER_SEQ = 8, RETRY_MS = 20, DEFAULT_MAX_TOKENS = 16 };
static const size_t max_line_bytes = (size_t)64 << 20;

typedef struct batch {
    const qr_cli_args *args;
    const quire_model *model;
    quire_engine *engine;
    qr_token_text *token_text;
    FILE *in, *out;
    const char *out_name;
    qr_buf line;
    qr_cli_job **window; /* ring [window_size], oldest at `first` */
    int window_size, first, count;
    bool newest_waits; /* the newest job was refused by a full queue */
    bool ended;        /* no more lines */
    int64_t num_read, num_done, num_failed, num_lines, num_tokens;
    qr_cli_progress progress;
} batch;

int qr_cli_read_line(FILE *file, size_t max_bytes, qr_buf *out, bool *out_too_long)
{
    int c;
    bool any = false;
    out->len = 0;
    *out_too_long = false;
    if (qr_buf_append(out, "", 0) != 0) return -1;
    while ((c = getc_unlocked(file)) != EOF) {
        any = true;
        if (c == '\n') break;
        if (out->len == max_bytes) {
            *out_too_long = true;
            continue;
        }
        if (out->len + 1 >= out->cap && qr_buf_reserve(out, out->len) != 0) return -1;
        out->data[out->len++] = (char)c;
    }
    out->data[out->len] = '\0';
    return any;
}

static bool is_blank(const qr_buf *line) { return strspn(line->data, " \t\r") == line->len; }

/* Read one line into a new job; a bad line gives a failed job. NULL with b->ended at the end of input. */
static qr_cli_job *read_job(batch *b)
{
    bool too_long;
    int got;
    do got = qr_cli_read_line(b->in, max_line_bytes, &b->line, &too_long);
    while (got == 1 && is_blank(&b->line));
    if (got != 1) {
        b->ended = true;
        return NULL;
    }
    qr_cli_job *job = qr_calloc(1, sizeof *job);
    if (!job) return NULL;
    job->index = b->num_read++;
    quire_status status = too_long
                              ? qr_fail(&job->error, QUIRE_INVALID, "the line is longer than %zu bytes", max_line_bytes)
                              : qr_cli_parse_request(b->args, b->token_text->vocab_size, b->line.data, b->line.len,
                                                     &job->request, &job->error);
    if (status == QUIRE_OK) {
        if (job->request.sampling.max_tokens < 0 && !b->args->max_tokens_given)
            job->request.sampling.max_tokens = DEFAULT_MAX_TOKENS;
        status = qr_cli_job_prepare(job, b->model, b->token_text, &job->error);
    }
    job->failed = status != QUIRE_OK;
    return job;
}

static void submit_newest(batch *b)
{
    qr_cli_job *job = b->window[(b->first + b->count - 1) % b->window_size];
    b->newest_waits = false;
    if (job->failed) return;
    quire_status status = qr_cli_job_submit(job, b->engine, &job->error);
    if (status == QUIRE_QUEUE_FULL)
        b->newest_waits = true;
    else
        job->failed = status != QUIRE_OK;
}

/* Submit as the queue permits. false: no memory. */
static bool fill_window(batch *b)
{
    if (b->newest_waits) submit_newest(b);
    while (!b->newest_waits && !b->ended && b->count < b->window_size) {
        qr_cli_job *job = read_job(b);
        if (!job && !b->ended) return false;
        if (!job) break;
        b->window[(b->first + b->count++) % b->window_size] = job;
        submit_newest(b);
    }
    return true;
}

static void draw_progress(batch *b)
{
    char detail[96];
    double seconds = (double)(qr_clock_us() - b->progress.started_us) / 1e6;
    snprintf(detail, sizeof detail, "%lld done, %.1f tokens/s", (long long)b->num_done,
             seconds > 0 ? (double)b->num_tokens / seconds : 0);
    qr_cli_progress_draw(&b->progress, b->num_lines ? (double)b->num_done / (double)b->num_lines : -1, detail);
}

/* Wait for the oldest job, submitting more in the meantime. false: interrupted or no memory. */
static bool finish_oldest(batch *b)
{
    qr_cli_job *job = b->window[b->first];
    bool done = job->failed && !job->handle;
    while (!done) {
        if (qr_cli_interrupted()) return false;
        if (!job->handle) /* the only job, and the queue is full */
            nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
        else if (qr_cli_job_poll(job, RETRY_MS, &done) != QUIRE_OK)
            draw_progress(b);
        if (b->newest_waits && !fill_window(b)) return false;
        done = done || (job->failed && !job->handle);
    }
    return true;
}

static int write_oldest(batch *b)
{
    qr_cli_job *job = b->window[b->first];
    qr_emit text = {0};
    qr_cli_job_write(job, &text);
    for (int i = 0; i < job->reply.num_choices; i++) b->num_tokens += job->reply.choices[i].num_output_tokens;
    b->num_done++;
    b->num_failed += job->failed;
    bool no_memory = text.failed;
    bool ok = !no_memory && fwrite(text.buf.data, 1, text.buf.len, b->out) == text.buf.len && fflush(b->out) == 0;
    int reason = errno;
    qr_emit_deinit(&text);
    qr_cli_job_deinit(job);
    qr_free(job);
    b->first = (b->first + 1) % b->window_size;
    b->count--;
    if (ok) return QR_CLI_OK;
    qr_cli_progress_end(&b->progress);
    return qr_cli_fail("cannot write %s: %s", b->out_name, no_memory ? "out of memory" : strerror(reason));
}

static int run(batch *b)
{
    for (;;) {
        if (!fill_window(b)) return qr_cli_fail("out of memory");
        if (b->count == 0) break;
        if (!finish_oldest(b)) {
            qr_cli_progress_end(&b->progress);
            return qr_cli_fail("stopped after %lld results", (long long)b->num_done);
        }
        if (write_oldest(b) != QR_CLI_OK) return QR_CLI_FAILED;
        draw_progress(b);
    }
    qr_cli_progress_end(&b->progress);
    if (ferror(b->in)) return qr_cli_fail("%s: %s", b->args->file, strerror(errno));
    if (b->num_failed)
        return qr_cli_fail("%lld of %lld requests failed: see \"error\" in %s", (long long)b->num_failed,
                           (long long)b->num_done, b->out_name);
    return QR_CLI_OK;
}

/* Lines of a file that can be read twice; 0: unknown. */
static int64_t count_lines(FILE *file)
{
    int64_t count = 0;
    if (fseek(file, 0, SEEK_SET) != 0) return 0;
    for (int c; (c = getc_unlocked(file)) != EOF;) count += c == '\n';
    rewind(file);
    return count;
}

static int open_files(batch *b)
{
    const qr_cli_args *args = b->args;
    bool from_stdin = strcmp(args->file, "-") == 0, to_stdout = strcmp(args->out, "-") == 0;
    b->in = from_stdin ? stdin : fopen(args->file, "rb");
    if (!b->in) return qr_cli_fail("%s: %s", args->file, strerror(errno));
    if (!from_stdin && qr_cli_is_terminal(stderr)) b->num_lines = count_lines(b->in);
    b->out_name = to_stdout ? "standard output" : args->out;
    b->out = to_stdout ? stdout : fopen(args->out, "wb");
    if (!b->out) return qr_cli_fail("%s: %s", args->out, strerror(errno));
    return QR_CLI_OK;
}

int qr_cli_run_batch(qr_cli_args *args, quire_model *model, quire_engine *engine, qr_token_text *token_text)
{
    batch b = {.args = args, .model = model, .engine = engine, .token_text = token_text};
    b.window_size = WINDOW_PER_SEQ * args->engine.max_num_seqs;
    b.window = qr_calloc((size_t)b.window_size, sizeof *b.window);
    int exit_status = b.window ? open_files(&b) : qr_cli_fail("out of memory");
    if (exit_status == QR_CLI_OK) {
        qr_cli_progress_start(&b.progress, "generating", 500000);
        qr_cli_interrupt_catch();
        exit_status = run(&b);
        qr_cli_interrupt_release();
    }
    for (; b.count > 0; b.count--, b.first = (b.first + 1) % b.window_size) {
        qr_cli_job_deinit(b.window[b.first]);
        qr_free(b.window[b.first]);
    }
    if (b.in && b.in != stdin) fclose(b.in);
    if (b.out && b.out != stdout && fclose(b.out) != 0 && exit_status == QR_CLI_OK)
        exit_status = qr_cli_fail("cannot write %s: %s", b.out_name, strerror(errno));
    qr_free(b.window);
    qr_free(b.line.data);
    return exit_status;
}
