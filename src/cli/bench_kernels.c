/* quire bench kernels: rows as they come, or JSON at the end. */
#include <math.h>

#include "bench/kernels.h"
#include "cli/bench.h"

typedef struct output {
    bool print; /* the table, not JSON */
    json_t *limits, *rows;
} output;

static bool on_limits(void *user, const qr_kernel_limits *limits)
{
    output *out = user;
    if (out->print)
        printf("%s: peak %.0f int8 GOP/s, %.0f float32 GFLOP/s, %.1f GB/s read\n", limits->device, limits->int8_gops,
               limits->float32_gflops, limits->read_gbs);
    out->limits = json_pack("{s:s, s:f, s:f, s:f}", "device", limits->device, "int8_gops", limits->int8_gops,
                            "float32_gflops", limits->float32_gflops, "read_gbs", limits->read_gbs);
    return out->limits && (!out->print || qr_cli_flush() == QR_CLI_OK);
}

static bool on_row(void *user, const qr_kernel_row *row)
{
    output *out = user;
    char percent[16] = "";
    const bool limited = !isnan(row->percent_of_peak);
    if (limited) snprintf(percent, sizeof percent, "%5.0f %%", row->percent_of_peak);
    if (out->print)
        printf("%-78s %9.1f %-7s %10.1f us %s\n", row->name, row->value, row->unit, row->seconds * 1e6, percent);
    json_t *json =
        json_pack("{s:s, s:f, s:s, s:f, s:o}", "name", row->name, "value", row->value, "unit", row->unit, "seconds",
                  row->seconds, "percent_of_peak", limited ? json_real(row->percent_of_peak) : json_null());
    return json && json_array_append_new(out->rows, json) == 0 && (!out->print || qr_cli_flush() == QR_CLI_OK);
}

int qr_cli_run_bench_kernels(qr_cli_args *args)
{
    quire_error error;
    output out = {.print = !args->json, .rows = json_array()};
    const qr_kernel_options options = {.threads = args->model.threads,
                                       .isa = args->bench.isa,
                                       .filter = args->bench.filter,
                                       .on_limits = on_limits,
                                       .on_row = on_row,
                                       .user = &out};
    int exit_status = QR_CLI_OK;
    quire_status status = out.rows ? qr_kernels_measure(&options, &error) : qr_fail_nomem(&error, "the rows", 0);
    if (status != QUIRE_OK) exit_status = qr_cli_fail("%s", error.message);
    json_t *result = exit_status == QR_CLI_OK ? json_pack("{s:O, s:O}", "limits", out.limits, "rows", out.rows) : NULL;
    json_decref(out.limits);
    json_decref(out.rows);
    return result ? qr_bench_emit(result, args->json, args->bench.output_json) : QR_CLI_FAILED;
}
