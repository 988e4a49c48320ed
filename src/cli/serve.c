/* quire serve: model, engine and server until a signal. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

enum { DRAIN_STEP_MS = 100 };

static int signal_pipe[2];

static void on_signal(int number)
{
    int saved = errno;
    char byte = (char)number;
    (void)!write(signal_pipe[1], &byte, 1);
    errno = saved;
}

/* Until the next SIGINT or SIGTERM, or for timeout_ms (< 0: no limit). */
static bool wait_for_signal(int timeout_ms)
{
    struct pollfd readable = {.fd = signal_pipe[0], .events = POLLIN};
    int ready;
    while ((ready = poll(&readable, 1, timeout_ms)) < 0 && errno == EINTR) continue;
    char byte;
    return ready < 0 || (ready > 0 && read(signal_pipe[0], &byte, 1) == 1);
}

static int catch_signals(void)
{
    if (pipe(signal_pipe) != 0) return qr_cli_fail("pipe: %s", strerror(errno));
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return QR_CLI_OK;
}

/* Serve until a signal; then let the running requests finish, unless a second signal comes. */
static int serve_until_signal(const qr_cli_args *args, qr_server *server, quire_engine *engine)
{
    bool bracket = strchr(args->server.host, ':') != NULL;
    qr_cli_note("serving   http://%s%s%s:%d/v1   (Ctrl-C stops)", bracket ? "[" : "", args->server.host,
                bracket ? "]" : "", qr_server_port(server));
    wait_for_signal(-1);
    quire_stats stats;
    quire_engine_get_stats(engine, &stats);
    int num_left = stats.num_requests_running + stats.num_requests_waiting;
    if (num_left)
        qr_cli_note("stopping: %d request%s to finish; Ctrl-C again ends at once", num_left, num_left == 1 ? "" : "s");
    while (qr_server_drain(server, DRAIN_STEP_MS) == QUIRE_TIMEOUT)
        if (wait_for_signal(0)) return qr_cli_fail("stopped with requests unfinished");
    return QR_CLI_OK;
}

int qr_cli_run_serve(qr_cli_args *args)
{
    quire_error error;
    quire_model *model = NULL;
    quire_engine *engine = NULL;
    qr_server *server = NULL;
    qr_buf template_text = {0};
    int exit_status = QR_CLI_FAILED;
    if (args->server.api_key && !*args->server.api_key) /* an unset variable in a script, most likely */
        return qr_cli_usage_error("serve", "serve: --api-key is empty; leave it out to serve everybody");
    for (int i = 0; i < args->served_model_names.count; i++)
        if (!*args->served_model_names.items[i])
            return qr_cli_usage_error("serve", "serve: --served-model-name is empty");
    if (args->chat_template && qr_cli_read_file(args->chat_template, &template_text, &error) != QUIRE_OK)
        return qr_cli_fail("%s", error.message);

    if (qr_cli_open_model(args, false, &model) != QR_CLI_OK) goto done;
    if (qr_cli_create_engine(args, model, &engine) != QR_CLI_OK) goto done;
    args->server.model = model;
    args->server.engine = engine;
    args->server.chat_template = template_text.data;
    args->server.model_path = args->words[0];
    args->server.served_model_names = args->served_model_names.items;
    args->server.num_served_model_names = args->served_model_names.count;
    if (catch_signals() != QR_CLI_OK) goto done;
    if (qr_server_start(&args->server, &server, &error) != QUIRE_OK) {
        qr_cli_fail("%s", error.message);
        goto done;
    }
    qr_cli_describe(model, engine);
    exit_status = serve_until_signal(args, server, engine);
done:
    qr_server_stop(server);
    quire_engine_destroy(engine);
    quire_model_close(model);
    qr_free(template_text.data);
    return exit_status;
}
