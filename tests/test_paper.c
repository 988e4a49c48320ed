/* paper: figures 2 and 13 come out as in the paper, sweeps find their limit, and that trouble ends a run cleanly. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "paper/cases.h"

enum { NUM_SYSTEMS = 4 };
static const qr_paper_system systems[NUM_SYSTEMS] = {QR_PAPER_ORCA_MAX, QR_PAPER_ORCA_POW2, QR_PAPER_ORCA_ORACLE,
                                                     QR_PAPER_VLLM};
static quire_error error;

static void open_paper(qr_paper *paper, const qr_paper_options *options)
{
    *paper = (qr_paper){.options = options, .error = &error};
    assert_int_equal(qr_paper_calibrate(paper), QUIRE_OK);
    assert_int_equal(qr_pool_create(2, &paper->pool, &error), QUIRE_OK);
    assert_int_equal(qr_sim_trace_sharegpt_paper(&paper->sharegpt, &error), QUIRE_OK);
}

static void close_paper(qr_paper *paper)
{
    qr_sim_trace_deinit(&paper->sharegpt);
    qr_pool_destroy(paper->pool);
}

/* Figures 2 and 13a, with half an hour of requests. */
static void memory_and_batches_are_the_papers(void **state)
{
    (void)state;
    static const double live[NUM_SYSTEMS] = {0.204, 0.268, 0.382, 0.963},
                        batched[NUM_SYSTEMS] = {7, 9.81, 13.62, 30.42};
    static qr_sim_result results[NUM_SYSTEMS];
    const qr_paper_options options = {.hours = 0.5, .seed = 1};
    qr_paper paper;
    qr_paper_case cases[NUM_SYSTEMS];
    open_paper(&paper, &options);
    for (int i = 0; i < NUM_SYSTEMS; i++)
        cases[i] = (qr_paper_case){
            .system = systems[i], .model = "opt-13b", .trace = &paper.sharegpt, .request_rate = 2, .seconds = 1800};
    assert_int_equal(qr_paper_run_cases(&paper, cases, NUM_SYSTEMS, results), QUIRE_OK);
    for (int i = 0; i < NUM_SYSTEMS; i++) {
        const qr_sim_memory *m = &results[i].memory;
        assert_true(fabs(m->live + m->reserved + m->internal + m->external + m->free - 1) < 1e-9);
        assert_true(fabs(m->live / (1 - m->free) - live[i]) < 0.05);
        assert_true(fabs(results[i].mean_batched_requests / batched[i] - 1) < 0.15);
    }
    assert_true(results[0].mean_batched_requests <= 7); /* floor(15,728 / 2,048) */
    close_paper(&paper);
}

/* A sweep's points ascend, its sustained rate lies between the last good and the first bad one, and who reserves less
 * sustains more. */
static void sweeps_close_in_on_the_limit(void **state)
{
    (void)state;
    const qr_paper_options options = {.hours = 0.1, .seed = 1};
    static qr_paper_curve curves[NUM_SYSTEMS];
    qr_paper paper;
    qr_paper_case cases[NUM_SYSTEMS];
    open_paper(&paper, &options);
    for (int i = 0; i < NUM_SYSTEMS; i++)
        cases[i] = (qr_paper_case){
            .system = systems[i], .model = "opt-13b", .trace = &paper.sharegpt, .request_rate = 0.1, .seconds = 360};
    assert_int_equal(qr_paper_sweep(&paper, cases, NUM_SYSTEMS, curves), QUIRE_OK);
    for (int i = 0; i < NUM_SYSTEMS; i++) {
        const qr_paper_curve *c = &curves[i];
        double good = 0, bad = INFINITY;
        for (int k = 0; k < c->num_points; k++) {
            assert_true(k == 0 || c->rates[k] > c->rates[k - 1]);
            if (c->latencies[k] <= qr_paper_latency_limit && c->rates[k] > good && bad > c->rates[k])
                good = c->rates[k];
            if (c->latencies[k] > qr_paper_latency_limit && c->rates[k] < bad) bad = c->rates[k];
        }
        assert_true(c->sustained >= good && c->sustained <= bad && bad / good < 1.02);
        assert_true(i == 0 || c->sustained > 1.1 * curves[i - 1].sustained);
    }
    close_paper(&paper);
}

static void calibration_replaces_constants(void **state)
{
    (void)state;
    qr_paper_options options = {.hours = 1, .seed = 1, .calibration = "{\"step_us\": 12000, \"seq_us\": 30}"};
    qr_paper paper = {.options = &options, .error = &error};
    assert_int_equal(qr_paper_calibrate(&paper), QUIRE_OK);
    assert_true(qr_paper_device(&paper, "a100-40gb")->step_us == 12000);
    assert_true(qr_paper_device(&paper, "h100")->seq_us == 30);
    assert_true(qr_paper_device(&paper, "h100")->tflops == qr_sim_find_device("h100")->tflops);
    qr_report *report;
    options.calibration = "{\"step\": 1}";
    assert_int_equal(qr_report_create("bad", &report, &error), QUIRE_OK);
    assert_int_equal(qr_paper_run(&options, report, &error), QUIRE_FORMAT);
    qr_report_destroy(report);
}

static bool stop_at_once(void *user, const char *figure, double fraction)
{
    (void)user, (void)figure, (void)fraction;
    return false;
}

static void interruption_ends_it(void **state)
{
    (void)state;
    const qr_paper_options options = {.hours = 1, .num_threads = 1, .seed = 1, .on_progress = stop_at_once};
    qr_report *report;
    assert_int_equal(qr_report_create("interrupted", &report, &error), QUIRE_OK);
    assert_int_equal(qr_paper_run(&options, report, &error), QUIRE_ABORTED);
    qr_report_destroy(report);
}

static void failed_allocations_are_reported(void **state)
{
    (void)state;
    const qr_paper_options options = {.hours = 0.0003, .num_threads = 1, .seed = 1};
    for (uint64_t n = 0; n < 5000; n = n * 5 / 4 + 1) {
        qr_report *report;
        assert_int_equal(qr_report_create("no memory", &report, &error), QUIRE_OK);
        qr_mem_fail_after(n);
        quire_status status = qr_paper_run(&options, report, &error);
        qr_mem_fail_off();
        if (status == QUIRE_OK) status = qr_report_save(report, "/nowhere/at/all", &error);
        assert_int_equal(status, QUIRE_NOMEM);
        qr_report_destroy(report);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_and_batches_are_the_papers), cmocka_unit_test(sweeps_close_in_on_the_limit),
        cmocka_unit_test(calibration_replaces_constants),    cmocka_unit_test(interruption_ends_it),
        cmocka_unit_test(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
