/* quire tokenize, detokenize, render, logits. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

/* ---- tokenize --------------------------------------------------------------------------------- */

int qr_cli_run_tokenize(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    qr_buf text = {0};
    int32_t *ids = NULL;
    size_t num_ids = 0;
    if (!args->file == !args->prompt)
        return qr_cli_usage_error("tokenize", "tokenize: give one of --file and --prompt");

    int exit_status = QR_CLI_FAILED;
    if (args->file && qr_cli_read_file(args->file, &text, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    if (qr_cli_open_model(args, true, &model) != QR_CLI_OK) goto done;
    const char *data = args->file ? text.data : args->prompt;
    size_t bytes = args->file ? text.len : strlen(args->prompt);
    if (quire_tokenize(model, data, bytes, !args->no_add_special, !args->no_parse_special, &ids, &num_ids, &error) !=
        QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    putchar('[');
    for (size_t i = 0; i < num_ids; i++) printf("%s%d", i ? "," : "", (int)ids[i]);
    puts("]");
    exit_status = qr_cli_flush();
done:
    quire_free(ids);
    qr_free(text.data);
    quire_model_close(model);
    return exit_status;
}

/* ---- detokenize ------------------------------------------------------------------------------- */

int qr_cli_run_detokenize(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    qr_buf text = {0};
    int32_t *ids = NULL;
    char *out = NULL;
    size_t num_ids = 0, bytes = 0;
    if (!args->file == !args->ids) return qr_cli_usage_error("detokenize", "detokenize: give one of --ids and --file");

    int exit_status = QR_CLI_FAILED;
    if ((args->file && qr_cli_read_file(args->file, &text, &error) != QUIRE_OK) ||
        qr_cli_parse_ids(args->file ? text.data : args->ids, &ids, &num_ids, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    if (qr_cli_open_model(args, true, &model) != QR_CLI_OK) goto done;
    if (quire_detokenize(model, ids, num_ids, args->skip_special, &out, &bytes, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    fwrite(out, 1, bytes, stdout);
    exit_status = qr_cli_flush();
done:
    quire_free(out);
    qr_free(ids);
    qr_free(text.data);
    quire_model_close(model);
    return exit_status;
}

/* ---- render ----------------------------------------------------------------------------------- */

/* Read an optional file into buf and point *out at its text. */
static quire_status read_optional(const char *path, qr_buf *buf, const char **out, quire_error *error)
{
    if (!path) return QUIRE_OK;
    QR_TRY(qr_cli_read_file(path, buf, error));
    *out = buf->data;
    return QUIRE_OK;
}

int qr_cli_run_render(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    qr_buf messages = {0}, template = {0}, tools = {0};
    char *prompt = NULL;
    size_t bytes = 0;
    if (!args->messages) return qr_cli_usage_error("render", "render: --messages is missing");
    if (!args->num_words && !args->chat_template)
        return qr_cli_usage_error("render", "render: give MODEL, or --template");

    int exit_status = QR_CLI_FAILED;
    quire_render_options options;
    quire_render_options_init(&options);
    options.bos = args->bos;
    options.eos = args->eos;
    options.add_generation_prompt = !args->no_generation_prompt;
    if (read_optional(args->messages, &messages, &options.messages_json, &error) != QUIRE_OK ||
        read_optional(args->chat_template, &template, &options.template_text, &error) != QUIRE_OK ||
        read_optional(args->tools, &tools, &options.tools_json, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    if (args->num_words && qr_cli_open_model(args, true, &model) != QR_CLI_OK) goto done;
    if (quire_render_chat(model, &options, &prompt, &bytes, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    fwrite(prompt, 1, bytes, stdout);
    exit_status = qr_cli_flush();
done:
    quire_free(prompt);
    qr_free(messages.data);
    qr_free(template.data);
    qr_free(tools.data);
    quire_model_close(model);
    return exit_status;
}

/* ---- logits ----------------------------------------------------------------------------------- */

static int write_floats(const char *path, const float *values, size_t count)
{
    FILE *file = strcmp(path, "-") == 0 ? stdout : fopen(path, "wb");
    if (!file) return qr_cli_fail("%s: %s", path, strerror(errno));
    unsigned char bytes[4096];
    bool ok = true;
    for (size_t i = 0; ok && i < count;) { /* little endian on any machine */
        size_t n = 0;
        for (; n < sizeof bytes && i < count; i++, n += 4) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            for (int b = 0; b < 4; b++) bytes[n + (size_t)b] = (unsigned char)(bits >> (8 * b));
        }
        ok = fwrite(bytes, 1, n, file) == n;
    }
    if (file == stdout) return qr_cli_flush();
    if (fclose(file) != 0) ok = false;
    return ok ? QR_CLI_OK : qr_cli_fail("%s: %s", path, strerror(errno));
}

int qr_cli_run_logits(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    int32_t *ids = NULL;
    float *logits = NULL;
    size_t num_ids = 0, count = 0;
    if (!args->ids || !args->out) return qr_cli_usage_error("logits", "logits: give both --ids and --out");

    int exit_status = QR_CLI_FAILED;
    if (qr_cli_parse_ids(args->ids, &ids, &num_ids, &error) != QUIRE_OK) {
        qr_cli_fail("--ids: %s", error.message);
        goto done;
    }
    if (qr_cli_open_model(args, false, &model) != QR_CLI_OK) goto done;
    quire_model_info info;
    quire_model_get_info(model, &info);
    if (qr_mul_overflow(num_ids, (size_t)info.vocab_size, &count) || !(logits = qr_calloc(count, sizeof *logits))) {
        qr_cli_fail("out of memory: logits of %zu tokens", num_ids);
        goto done;
    }
    if (quire_model_logits(model, ids, num_ids, logits, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    exit_status = write_floats(args->out, logits, count);
done:
    qr_free(logits);
    qr_free(ids);
    quire_model_close(model);
    return exit_status;
}
