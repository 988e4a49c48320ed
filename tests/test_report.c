/* report: what is added stands in the page and in the JSON, escaped; the files appear; failures are reported. */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "report/report.h"

static quire_error error;
static char dir[] = "/tmp/quire-report-XXXXXX", inner[64];

static int make_dir(void **state)
{
    (void)state;
    snprintf(inner, sizeof inner, "%s/paper", mkdtemp(dir));
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    static const char *const files[] = {"/index.html", "/figures.json", "/picture.svg", ""};
    char path[128];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s%s", inner, files[i]);
        remove(path);
    }
    return rmdir(dir);
}

static char *read_file(const char *name)
{
    static char text[100000];
    char path[128];
    snprintf(path, sizeof path, "%s/%s", inner, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static quire_status build(qr_report **out)
{
    const double x[] = {1, 2}, y[] = {3, 4};
    qr_chart chart = {.id = "picture", .title = "Rate", .num_series = 1, .series = {{.x = x, .y = y, .count = 2}}};
    quire_status status = qr_report_create("The <paper>", out, &error);
    if (status != QUIRE_OK) return status;
    qr_report_intro(*out, "Method & `means`");
    qr_report_fact(*out, "machine", "A100");
    qr_report_figure *figure = qr_report_add_figure(*out, "fig2", "Figure 2: memory");
    qr_report_text(figure, "%d requests", 1000);
    qr_report_row_add(figure, &(qr_report_row){.label = "Orca (Max) <&>",
                                               .unit = "%",
                                               .paper = 20,
                                               .measured = 21.07,
                                               .decimals = 1,
                                               .lead = true,
                                               .note = "close"});
    qr_report_row_add(figure,
                      &(qr_report_row){.label = "new", .unit = "x", .paper = NAN, .measured = 2, .decimals = 0});
    qr_report_row_add(
        figure, &(qr_report_row){.label = "range", .paper = 1.7, .paper_high = 2.7, .measured = 2.5, .decimals = 1});
    qr_report_chart(figure, &chart);
    return QUIRE_OK;
}

static void page_and_data_say_what_was_added(void **state)
{
    (void)state;
    qr_report *report;
    assert_int_equal(build(&report), QUIRE_OK);
    assert_int_equal(qr_report_save(report, inner, &error), QUIRE_OK);
    assert_int_equal(qr_report_save(report, inner, &error), QUIRE_OK); /* over the old files */
    qr_report_destroy(report);

    const char *page = read_file("index.html");
    assert_non_null(strstr(page, "<h1>The &lt;paper&gt;</h1>"));
    assert_non_null(strstr(page, "Method &amp; <code>means</code>"));
    assert_non_null(strstr(page, "1000 requests"));
    const char *row = "<th scope=\"row\">Orca (Max) &lt;&amp;&gt;</th><td class=\"n\">20.0\xC2\xA0%</td>"
                      "<td class=\"n\">21.1\xC2\xA0%</td><td class=\"n\">1.05</td><td class=\"note\">close</td>";
    const char *first = strstr(page, row);
    assert_non_null(first);
    assert_non_null(strstr(first + 1, row)); /* in brief, and in its figure */
    assert_non_null(strstr(page, "<td class=\"n\">\xE2\x80\x93</td><td class=\"n\">2\xC3\x97</td>"));
    assert_non_null(strstr(page, "1.7\xE2\x80\x93"
                                 "2.7</td><td class=\"n\">2.5</td><td class=\"n\">1.00</td>"));
    assert_non_null(strstr(page, "id=\"picture-t\""));
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "http://w3"));

    assert_int_equal(strncmp(read_file("picture.svg"), "<svg ", 5), 0);
    json_t *json = json_loads(read_file("figures.json"), 0, NULL);
    json_t *rows = json_object_get(json_array_get(json, 0), "rows");
    assert_int_equal(json_array_size(rows), 3);
    assert_true(fabs(json_real_value(json_object_get(json_array_get(rows, 0), "measured")) - 21.07) < 1e-6);
    assert_true(json_is_null(json_object_get(json_array_get(rows, 1), "paper")));
    json_decref(json);
}

static void failures_are_reported(void **state)
{
    (void)state;
    qr_report *report;
    assert_int_equal(build(&report), QUIRE_OK);
    assert_int_equal(qr_report_save(report, "/dev/null", &error), QUIRE_IO); /* a file in the folder's place */
    assert_int_equal(qr_report_save(report, "/nowhere/at/all", &error), QUIRE_IO);
    assert_non_null(strstr(error.message, "/nowhere/at/all"));
    qr_report_destroy(report);

    for (uint64_t n = 0;; n++) {
        qr_mem_fail_after(n);
        report = NULL;
        quire_status status = build(&report);
        if (status == QUIRE_OK) status = qr_report_save(report, inner, &error);
        bool reached = qr_mem_num_allocations() > n;
        qr_mem_fail_off();
        qr_report_destroy(report);
        assert_int_equal(status, reached ? QUIRE_NOMEM : QUIRE_OK);
        if (!reached) break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_and_data_say_what_was_added),
        cmocka_unit_test(failures_are_reported),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
