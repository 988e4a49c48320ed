/* quire simulate --replay, and the calibration that a benchmark writes: what schedule logs are for. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/simulate.h"
#include "sim/schedule.h"

static quire_status parse_schedule(const char *name, const char *text, size_t bytes, void *out, quire_error *error)
{
    return qr_sim_schedule_parse(name, text, bytes, out, error);
}

static int write_fit(const qr_sim_schedule *schedule, const qr_sim_fit *fit, const char *path)
{
    json_t *object =
        json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "model", schedule->model, "made_by", "quire bench throughput",
                  "step_us", fit->step_us, "seq_us", fit->seq_us, "token_us", fit->token_us, "pair_us", fit->pair_us);
    const int failed = !object || json_dump_file(object, path, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) != 0;
    json_decref(object);
    if (failed) return qr_cli_fail("%s: %s", path, strerror(errno));
    qr_cli_note("calibration %s: step_us %.4g, seq_us %.4g, token_us %.4g, pair_us %.4g; over %zu steps it is off by "
                "%.1f %% a step, %+.2f %% in all",
                path, fit->step_us, fit->seq_us, fit->token_us, fit->pair_us, schedule->num_steps,
                100 * fit->mean_error, 100 * fit->total_error);
    return QR_CLI_OK;
}

static int fit_schedule(const qr_sim_schedule *schedule, const char *path)
{
    qr_sim_fit fit;
    quire_error error;
    if (qr_sim_schedule_fit(schedule, &fit, &error) != QUIRE_OK) return qr_cli_fail("%s", error.message);
    return write_fit(schedule, &fit, path);
}

int qr_cli_write_calibration(const char *log_path, const char *path)
{
    qr_sim_schedule schedule;
    quire_error error;
    if (qr_cli_parse_file(log_path, parse_schedule, &schedule, &error) != QUIRE_OK)
        return qr_cli_fail("%s", error.message);
    const int exit_status = fit_schedule(&schedule, path);
    qr_sim_schedule_deinit(&schedule);
    return exit_status;
}

/* Total times: as recorded, and with the cost model in place of the recording. */
static int compare_times(const qr_sim_schedule *schedule, const qr_sim_cost *cost, bool json,
                         const qr_sim_replay *replay)
{
    quire_error error;
    qr_sim_result *result = qr_malloc(sizeof *result);
    quire_status status = result ? QUIRE_OK : qr_fail_nomem(&error, "the result", sizeof *result);
    if (status == QUIRE_OK) status = qr_sim_schedule_simulate(schedule, cost, result, &error);
    if (status == QUIRE_OK && json)
        printf("{\"num_requests\": %zu, \"num_steps\": %lld, \"num_same_steps\": %lld, \"real_seconds\": %.6f, "
               "\"simulated_seconds\": %.6f, \"simulated_steps\": %lld}\n",
               schedule->trace.num_rows, (long long)replay->num_steps, (long long)replay->num_same_steps,
               replay->real_seconds, result->seconds, (long long)result->num_steps);
    else if (status == QUIRE_OK)
        printf("time      %.3f s really, %.3f s simulated (%+.2f %%), in %lld steps\n", replay->real_seconds,
               result->seconds, 100 * (result->seconds / replay->real_seconds - 1), (long long)result->num_steps);
    qr_free(result);
    return status == QUIRE_OK ? QR_CLI_OK : qr_cli_fail("%s", error.message);
}

int qr_cli_replay(const char *path, const char *fit_path, const qr_sim_cost *cost, bool json)
{
    qr_sim_schedule schedule;
    qr_sim_replay replay;
    quire_error error;
    int exit_status = QR_CLI_OK;
    if (qr_cli_parse_file(path, parse_schedule, &schedule, &error) != QUIRE_OK) return qr_cli_fail("%s", error.message);
    if (qr_sim_schedule_replay(&schedule, &replay, &error) != QUIRE_OK)
        exit_status = qr_cli_fail("%s", error.message);
    else if (*replay.difference)
        exit_status = qr_cli_fail("%s: the schedule differs: %s", path, replay.difference);
    else if (!json)
        printf("schedule  %zu requests, %lld steps: the same as recorded\n", schedule.trace.num_rows,
               (long long)replay.num_steps);
    if (exit_status == QR_CLI_OK && fit_path) exit_status = fit_schedule(&schedule, fit_path);
    if (exit_status == QR_CLI_OK) exit_status = compare_times(&schedule, cost, json, &replay);
    qr_sim_schedule_deinit(&schedule);
    return exit_status;
}
