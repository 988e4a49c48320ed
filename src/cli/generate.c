/* quire generate: one prompt, its answer streamed to the terminal or printed as JSON. Batches: batch.c. */
#include <string.h>

#include "cli/batch.h"
#include "cli/job.h"

enum { POLL_MS = 100, SINGLE_MAX_TOKENS = 256 };

/* Several answers: gathered, and printed one after the other. */
static int print_answers(qr_cli_job *job, quire_error *error)
{
    int n = job->request.sampling.n, exit_status = QR_CLI_OK;
    qr_buf *texts = qr_calloc((size_t)n, sizeof *texts);
    if (!texts) return qr_cli_fail("out of memory");
    const quire_output *output = NULL;
    while (exit_status == QR_CLI_OK && !(output && output->request_finished)) {
        if (quire_request_next(job->handle, -1, &output) != QUIRE_OK) break;
        if (output->finish_reason == QUIRE_FINISH_ERROR)
            exit_status = qr_cli_fail("%s", output->error_message ? output->error_message : error->message);
        else if (qr_buf_append(&texts[output->index], output->text, output->text_bytes) != 0)
            exit_status = qr_cli_fail("out of memory");
    }
    for (int i = 0; i < n; i++) {
        if (exit_status == QR_CLI_OK) {
            if (job->request.echo) fwrite(job->request.prompts[0].text, 1, job->request.prompts[0].text_bytes, stdout);
            printf("%s\n%s", texts[i].data ? texts[i].data : "", i < n - 1 ? "---\n" : "");
        }
        qr_free(texts[i].data);
    }
    qr_free(texts);
    return exit_status;
}

static int stream_answer(qr_cli_job *job)
{
    const qr_api_prompt *prompt = &job->request.prompts[0];
    const quire_output *output = NULL;
    if (job->request.echo) fwrite(prompt->text, 1, prompt->text_bytes, stdout);
    while (!(output && output->request_finished)) {
        quire_status status = quire_request_next(job->handle, POLL_MS, &output);
        if (status == QUIRE_TIMEOUT) {
            output = NULL;
            continue;
        }
        if (status != QUIRE_OK) return qr_cli_fail("the request was aborted");
        if (output->finish_reason == QUIRE_FINISH_ERROR)
            return qr_cli_fail("%s", output->error_message ? output->error_message : "engine error");
        if (!job->request.echo_only) fwrite(output->text, 1, output->text_bytes, stdout);
        if (qr_cli_flush() != QR_CLI_OK) return QR_CLI_FAILED; /* nobody reads any more: the job's end aborts it */
    }
    putchar('\n');
    return QR_CLI_OK;
}

static int print_json(qr_cli_job *job)
{
    qr_emit out = {0};
    for (bool done = false; !done;)
        if (qr_cli_job_poll(job, -1, &done) != QUIRE_OK) break;
    qr_cli_job_write(job, &out);
    int exit_status = job->failed ? QR_CLI_FAILED : QR_CLI_OK;
    if (out.failed)
        exit_status = qr_cli_fail("out of memory");
    else
        fwrite(out.buf.data, 1, out.buf.len, stdout);
    qr_emit_deinit(&out);
    return exit_status;
}

static int run_single(qr_cli_args *args, quire_model *model, quire_engine *engine, qr_token_text *token_text)
{
    quire_error error = {0};
    qr_cli_job job = {0};
    int exit_status = QR_CLI_FAILED;
    quire_status status = qr_cli_parse_request(args, token_text->vocab_size, NULL, 0, &job.request, &error);
    if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
    if (job.request.sampling.max_tokens < 0 && !args->max_tokens_given)
        job.request.sampling.max_tokens = SINGLE_MAX_TOKENS;
    status = qr_cli_job_prepare(&job, model, token_text, &error);
    if (status == QUIRE_OK) status = qr_cli_job_submit(&job, engine, &error);
    if (status != QUIRE_OK)
        qr_cli_fail("%s", error.message);
    else if (args->json)
        exit_status = print_json(&job);
    else
        exit_status = job.request.sampling.n > 1 ? print_answers(&job, &error) : stream_answer(&job);
    qr_cli_job_deinit(&job);
    return exit_status;
}

int qr_cli_run_generate(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    quire_engine *engine = NULL;
    qr_token_text token_text = {0};
    qr_buf prompt = {0};
    int exit_status = QR_CLI_FAILED;
    if (!!args->prompt + !!args->ids + !!args->file != 1)
        return qr_cli_usage_error("generate", "generate: give one of --prompt, --ids and --file");
    if (args->prompt && strcmp(args->prompt, "-") == 0) {
        if (qr_cli_read_file("-", &prompt, &error) != QUIRE_OK) return qr_cli_fail("%s", error.message);
        args->prompt = prompt.data;
    }
    if (qr_cli_open_model(args, false, &model) != QR_CLI_OK) goto done;
    quire_model_info info;
    quire_model_get_info(model, &info);
    if (qr_token_text_init(&token_text, model, info.vocab_size, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    if (qr_cli_create_engine(args, model, &engine) != QR_CLI_OK) goto done;
    exit_status =
        args->file ? qr_cli_run_batch(args, model, engine, &token_text) : run_single(args, model, engine, &token_text);
    if (qr_cli_flush() != QR_CLI_OK) exit_status = QR_CLI_FAILED;
done:
    quire_engine_destroy(engine);
    qr_token_text_deinit(&token_text);
    quire_model_close(model);
    qr_free(prompt.data);
    return exit_status;
}
