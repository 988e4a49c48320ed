/* quire pull: fetch a model from a hub. */
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"

typedef struct pull_state {
    qr_cli_progress progress;
    char file[256];
    int64_t file_started_us;
    uint64_t first_bytes; /* already there when the file's transfer began */
} pull_state;

static bool on_progress(void *user, const char *file, uint64_t done_bytes, uint64_t total_bytes)
{
    pull_state *state = user;
    int64_t now = qr_clock_us();
    if (strcmp(state->file, file) != 0) {
        snprintf(state->file, sizeof state->file, "%s", file);
        state->file_started_us = now;
        state->first_bytes = done_bytes;
        qr_cli_progress_end(&state->progress);
        qr_cli_progress_start(&state->progress, state->file, 0);
    }
    char done[32], total[32], rate[32], detail[128];
    double seconds = (double)(now - state->file_started_us) / 1e6;
    qr_cli_format_bytes((double)done_bytes, done, sizeof done);
    qr_cli_format_bytes((double)total_bytes, total, sizeof total);
    qr_cli_format_bytes(seconds > 0.2 ? (double)(done_bytes - state->first_bytes) / seconds : 0, rate, sizeof rate);
    if (total_bytes)
        snprintf(detail, sizeof detail, "%s of %s, %s/s", done, total, rate);
    else
        snprintf(detail, sizeof detail, "%s, %s/s", done, rate);
    qr_cli_progress_draw(&state->progress, total_bytes ? (double)done_bytes / (double)total_bytes : -1, detail);
    return !qr_cli_interrupted();
}

int qr_cli_run_pull(qr_cli_args *args)
{
    quire_error error;
    pull_state state = {.progress = {.label = ""}};
    char *path = NULL;
    quire_pull_options options;
    quire_pull_options_init(&options);

    const char *colon = strrchr(args->words[0], ':');
    char *repo = colon ? qr_strndup(args->words[0], (size_t)(colon - args->words[0])) : qr_strdup(args->words[0]);
    if (!repo) return qr_cli_fail("out of memory");
    options.repo = repo;
    options.file = colon ? colon + 1 : NULL;
    options.revision = args->revision;
    options.dest_dir = args->dir;
    options.on_progress = on_progress;
    options.user = &state;

    qr_cli_interrupt_catch();
    quire_status status = quire_pull(&options, &path, &error);
    qr_cli_interrupt_release();
    qr_cli_progress_end(&state.progress);
    qr_free(repo);
    if (status == QUIRE_ABORTED && qr_cli_interrupted())
        return qr_cli_fail("stopped; the same command again goes on where this one ended");
    if (status != QUIRE_OK) return qr_cli_fail("%s", error.message);
    printf("%s\n", path);
    quire_free(path);
    return qr_cli_flush();
}
