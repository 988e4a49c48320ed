/* quire chat: a conversation in the terminal. */
#define _POSIX_C_SOURCE 200809L
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/job.h"

enum { POLL_MS = 100, MIN_ANSWER_TOKENS = 256 };

typedef struct session {
    quire_model *model;
    quire_engine *engine;
    qr_api_request defaults; /* what the options say of sampling */
    qr_buf template_text;
    const char *system; /* NULL: none */
    json_t *messages;   /* what was said, without the system message */
    char *owned_system;
    bool interactive;
    int max_model_len;
} session;

static void colour(const session *s, const char *code)
{
    if (s->interactive && qr_cli_has_colour(stdout)) fputs(code, stdout);
}

/* ---- history ---------------------------------------------------------------------------------- */

static quire_status add_message(session *s, const char *role, const char *text, size_t bytes, quire_error *error)
{
    json_t *message = json_pack("{s:s, s:s%}", "role", role, "content", text, bytes);
    if (!message) return qr_fail(error, QUIRE_INVALID, "this message is not valid UTF-8");
    if (json_array_append_new(s->messages, message) != 0) return qr_fail_nomem(error, "the conversation", bytes);
    return QUIRE_OK;
}

static quire_status render(const session *s, char **out_prompt, size_t *out_bytes, quire_error *error)
{
    json_t *all = json_array();
    json_t *system = s->system ? json_pack("{s:s, s:s}", "role", "system", "content", s->system) : NULL;
    char *text = NULL;
    quire_status status = QUIRE_OK;
    if (s->system && !system) status = qr_fail(error, QUIRE_INVALID, "the system message is not valid UTF-8");
    if (!all || (system && json_array_append(all, system) != 0) || json_array_extend(all, s->messages) != 0 ||
        !(text = json_dumps(all, JSON_COMPACT)))
        if (status == QUIRE_OK) status = qr_fail_nomem(error, "the conversation", 0);
    if (status == QUIRE_OK) {
        quire_render_options options;
        quire_render_options_init(&options);
        options.messages_json = text;
        options.template_text = s->template_text.data;
        status = quire_render_chat(s->model, &options, out_prompt, out_bytes, error);
    }
    free(text);
    json_decref(system);
    json_decref(all);
    return status;
}

/* Tokens that the conversation takes now. */
static quire_status count_tokens(const session *s, size_t *out_count, quire_error *error)
{
    char *prompt = NULL;
    size_t bytes;
    int32_t *ids = NULL;
    QR_TRY(render(s, &prompt, &bytes, error));
    quire_status status = quire_tokenize(s->model, prompt, bytes, false, true, &ids, out_count, error);
    quire_free(ids);
    quire_free(prompt);
    return status;
}

/* Forget the oldest exchanges until an answer has room in the context; the newest message stays. */
static quire_status make_room(session *s, quire_error *error)
{
    int reserve = s->max_model_len / 4 < MIN_ANSWER_TOKENS ? s->max_model_len / 4 : MIN_ANSWER_TOKENS;
    size_t count, dropped = 0;
    for (;;) {
        QR_TRY(count_tokens(s, &count, error));
        if ((int64_t)count + reserve <= s->max_model_len || json_array_size(s->messages) < 3) break;
        json_array_remove(s->messages, 0);
        json_array_remove(s->messages, 0);
        dropped += 2;
    }
    if (dropped) qr_cli_note("(context full: forgot the %zu oldest messages)", dropped);
    return QUIRE_OK;
}

/* ---- one answer ------------------------------------------------------------------------------- */

/* Print outputs as they come; Ctrl-C aborts the request. The text is added to *answer. */
static quire_status stream_answer(const session *s, quire_request *request, qr_buf *answer, quire_error *error)
{
    for (bool aborted = false;;) {
        const quire_output *output;
        if ((qr_cli_interrupted() || ferror(stdout)) && !aborted) {
            quire_request_abort(request);
            aborted = true;
        }
        quire_status status = quire_request_next(request, POLL_MS, &output);
        if (status == QUIRE_TIMEOUT) continue;
        if (status != QUIRE_OK) return status;
        fwrite(output->text, 1, output->text_bytes, stdout);
        fflush(stdout);
        if (qr_buf_append(answer, output->text, output->text_bytes) != 0)
            return qr_fail_nomem(error, "the answer", answer->len);
        if (output->finish_reason == QUIRE_FINISH_ERROR)
            return qr_fail(error, QUIRE_DEVICE, "%s", output->error_message ? output->error_message : "engine error");
        if (!output->request_finished) continue;
        if (output->finish_reason == QUIRE_FINISH_LENGTH && s->interactive) fputs(" [cut at the length limit]", stdout);
        return QUIRE_OK;
    }
}

static quire_status answer(session *s, quire_error *error)
{
    char *prompt = NULL;
    size_t bytes;
    quire_request *request = NULL;
    qr_buf text = {0};
    quire_request_options options;
    quire_request_options_init(&options);
    QR_TRY(make_room(s, error));
    QR_TRY(render(s, &prompt, &bytes, error));
    options.prompt = prompt;
    options.prompt_bytes = bytes;
    options.add_special = false;
    options.sampling = s->defaults.sampling;
    quire_status status = quire_submit(s->engine, &options, &request, error);
    quire_free(prompt);
    if (status != QUIRE_OK) return status;
    colour(s, "\033[36m");
    status = stream_answer(s, request, &text, error);
    colour(s, "\033[0m");
    putchar('\n');
    quire_request_release(request);
    if (status == QUIRE_OK) status = add_message(s, "assistant", text.data ? text.data : "", text.len, error);
    qr_free(text.data);
    return status;
}

/* ---- input ------------------------------------------------------------------------------------ */

/* One message, with lines that end in '\' joined. false: end of input. An interrupt leaves *out empty. */
static bool read_message(const session *s, qr_buf *out)
{
    char *line = NULL;
    size_t cap = 0;
    bool more = true, got = false;
    out->len = 0;
    while (more) {
        if (s->interactive) {
            fputs(got ? ". " : "> ", stdout);
            fflush(stdout);
            if (!qr_cli_wait_input()) break;
        }
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        got = true;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        more = n > 0 && line[n - 1] == '\\';
        if (qr_buf_append(out, line, (size_t)(more ? n - 1 : n)) != 0 || (more && qr_buf_append(out, "\n", 1) != 0))
            break;
    }
    free(line);
    if (s->interactive && qr_cli_interrupted()) { /* Ctrl-C at the prompt */
        qr_cli_interrupt_clear();
        fputs("\n(/quit or Ctrl-D ends the program)\n", stdout);
        out->len = 0;
        return true;
    }
    return got;
}

static void print_stats(const session *s)
{
    quire_stats stats;
    quire_engine_get_stats(s->engine, &stats);
    printf("%llu prompt and %llu answer tokens; %llu of %llu prompt tokens came from the cache; %.1f tokens/s\n",
           (unsigned long long)stats.prompt_tokens, (unsigned long long)stats.generation_tokens,
           (unsigned long long)stats.prefix_cache_hits, (unsigned long long)stats.prefix_cache_queries,
           stats.step_seconds > 0 ? (double)stats.generation_tokens / stats.step_seconds : 0.0);
}

/* A line that begins with '/'. false: the program ends. */
static bool run_slash(session *s, const char *line)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/reset") == 0) {
        json_array_clear(s->messages);
        puts("(conversation forgotten)");
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(s);
    } else if (strcmp(line, "/system") == 0 || strncmp(line, "/system ", 8) == 0) {
        const char *text = line + 7 + strspn(line + 7, " ");
        qr_free(s->owned_system);
        s->owned_system = *text ? qr_strdup(text) : NULL;
        s->system = s->owned_system;
        json_array_clear(s->messages);
        puts(*text ? "(system message set, conversation forgotten)"
                   : "(system message removed, conversation forgotten)");
    } else {
        if (strcmp(line, "/help") != 0) printf("unknown command %s\n", line);
        puts("/help          this list\n"
             "/reset         forget the conversation\n"
             "/system TEXT   set the system message and start anew; without TEXT remove it\n"
             "/stats         tokens, cache hits, speed\n"
             "/quit          end (also Ctrl-D)\n"
             "Ctrl-C stops an answer; a line that ends in \\ goes on in the next.");
    }
    return true;
}

static int converse(session *s)
{
    int exit_status = QR_CLI_OK;
    qr_buf line = {0};
    quire_error error;
    while (!ferror(stdout) && read_message(s, &line)) {
        if (line.len == 0) continue;
        if (line.data[0] == '/') {
            if (!run_slash(s, line.data)) break;
            continue;
        }
        qr_cli_interrupt_clear();
        size_t num_before = json_array_size(s->messages);
        quire_status status = add_message(s, "user", line.data, line.len, &error);
        if (status == QUIRE_OK) status = answer(s, &error);
        qr_cli_interrupt_clear();
        if (status == QUIRE_OK) continue;
        exit_status = qr_cli_fail("%s", error.message);
        while (json_array_size(s->messages) > num_before) json_array_remove(s->messages, num_before);
    }
    qr_free(line.data);
    return s->interactive ? QR_CLI_OK : exit_status;
}

int qr_cli_run_chat(qr_cli_args *args)
{
    quire_error error;
    session s = {.interactive = qr_cli_is_terminal(stdin), .system = args->system};
    int exit_status = QR_CLI_FAILED;
    s.messages = json_array();
    if (args->chat_template && qr_cli_read_file(args->chat_template, &s.template_text, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    if (qr_cli_open_model(args, false, &s.model) != QR_CLI_OK) goto done;
    quire_model_info info;
    quire_model_get_info(s.model, &info);
    if (qr_cli_parse_request(args, info.vocab_size, NULL, 0, &s.defaults, &error) != QUIRE_OK) {
        exit_status = qr_cli_usage_error("chat", "chat: %s", error.message);
        goto done;
    }
    if (!args->chat_template && !info.has_chat_template) {
        qr_cli_fail("%s has no chat template: give one with --chat-template FILE, or use quire generate", info.name);
        goto done;
    }
    if (qr_cli_create_engine(args, s.model, &s.engine) != QR_CLI_OK) goto done;
    quire_stats stats;
    quire_engine_get_stats(s.engine, &stats);
    s.max_model_len = stats.max_model_len;
    if (s.interactive) printf("%s, %d tokens of context. /help lists the commands.\n", info.name, s.max_model_len);
    qr_cli_interrupt_catch();
    exit_status = converse(&s);
    qr_cli_interrupt_release();
    if (qr_cli_flush() != QR_CLI_OK) exit_status = QR_CLI_FAILED;
done:
    json_decref(s.messages);
    quire_engine_destroy(s.engine);
    quire_model_close(s.model);
    qr_api_request_deinit(&s.defaults);
    qr_free(s.template_text.data);
    qr_free(s.owned_system);
    return exit_status;
}
