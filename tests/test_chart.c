/* chart: the picture is well-formed XML whatever the data and the texts, its marks stand where its ticks say, and
 * failures to write are reported. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "report/chart.h"
#include "report/scale.h"

static quire_error error;

/* ---- a small checker of XML: tags nest, attributes are quoted, entities are known --------------- */

static const char *skip_attributes(const char *p)
{
    while (*p && *p != '>' && !(p[0] == '/' && p[1] == '>')) {
        p += strspn(p, " \n");
        size_t name = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-:");
        if (name == 0) break;
        p += name;
        assert_true(p[0] == '=' && p[1] == '"');
        p += 2;
        size_t value = strcspn(p, "\"<");
        p += value;
        assert_true(*p == '"');
        p++;
    }
    return p;
}

static void assert_well_formed(const char *text)
{
    char open[16][24];
    int depth = 0, roots = 0;
    const char *p = text;
    if (strncmp(p, "<?xml", 5) == 0) p = strstr(p, "?>") + 2;
    while (*p) {
        if (*p == '&') {
            assert_true(!strncmp(p, "&lt;", 4) || !strncmp(p, "&gt;", 4) || !strncmp(p, "&amp;", 5) ||
                        !strncmp(p, "&quot;", 6) || !strncmp(p, "&#39;", 5));
        }
        assert_true((unsigned char)*p >= 0x20 || *p == '\n' || *p == '\t');
        if (*p != '<') {
            p++;
            continue;
        }
        bool closing = *++p == '/';
        if (closing) p++;
        size_t bytes = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
        assert_true(bytes > 0 && bytes < sizeof open[0]);
        if (closing) {
            assert_true(depth > 0);
            depth--;
            assert_true(strlen(open[depth]) == bytes && memcmp(open[depth], p, bytes) == 0);
            p += bytes;
        } else {
            if (depth == 0) roots++;
            assert_true(depth < 16);
            memcpy(open[depth], p, bytes);
            open[depth][bytes] = 0;
            p = skip_attributes(p + bytes);
            if (*p == '/')
                p++;
            else
                depth++;
        }
        assert_true(*p == '>');
        p++;
    }
    assert_int_equal(depth, 0);
    assert_int_equal(roots, 1);
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
}

/* The chart's text, checked; lives until the next call. */
static const char *draw(const qr_chart *chart)
{
    static qr_xml out;
    qr_xml_deinit(&out);
    qr_chart_write(chart, &out);
    assert_false(out.failed);
    assert_well_formed(out.buf.data);
    return out.buf.data;
}

/* Where a text stands: attribute `name` of the <text> whose content is `content`. */
static double text_at(const char *svg, const char *content, const char *name)
{
    char end[80];
    snprintf(end, sizeof end, ">%s</text>", content);
    const char *p = strstr(svg, end);
    assert_non_null(p);
    while (*p != '<') p--;
    char key[16];
    snprintf(key, sizeof key, " %s=\"", name);
    return strtod(strstr(p, key) + strlen(key), NULL);
}

/* Where a marker stands whose values read `values`. */
static void marker_at(const char *svg, const char *values, double *x, double *y)
{
    char end[80];
    snprintf(end, sizeof end, "%s</title></path>", values);
    const char *p = strstr(svg, end);
    assert_non_null(p);
    while (strncmp(p, "<path", 5) != 0) p--;
    assert_int_equal(sscanf(p, "<path d=\"M%lf %lf", x, y), 2);
}

/* ---- values ------------------------------------------------------------------------------------- */

static const double one_to_four[] = {1, 2, 3, 4}, tens[] = {10, 40, 20, 30};

static qr_chart lines(void)
{
    return (qr_chart){.kind = QR_CHART_LINES,
                      .id = "c",
                      .title = "A title",
                      .x.title = "Rate (1/s)",
                      .y.title = "Latency (s)",
                      .num_series = 1,
                      .series = {{.name = "one", .x = one_to_four, .y = tens, .count = 4}}};
}

static void points_stand_at_their_ticks(void **state)
{
    (void)state;
    qr_chart chart = lines();
    const char *svg = draw(&chart);
    double x, y;
    marker_at(svg, "one (2, 40)", &x, &y);
    assert_true(fabs(x - text_at(svg, "2", "x")) < 0.11);
    assert_true(fabs(y + 4 - text_at(svg, "40", "y")) < 0.11); /* a label's baseline is 4 below its line */
    marker_at(svg, "one (4, 30)", &x, &y);
    assert_true(fabs(x - text_at(svg, "4", "x")) < 0.11);
    assert_true(fabs(y + 4 - text_at(svg, "30", "y")) < 0.11);
    assert_non_null(strstr(svg, "Rate (1/s)"));
    assert_non_null(strstr(svg, "Latency (s)"));
}

static void log_axes_show_decades(void **state)
{
    (void)state;
    const double x[] = {1, 10, 100, 1000}, y[] = {0.001, -5, 0, 10};
    qr_chart chart = lines();
    chart.x.log = chart.y.log = true;
    chart.series[0].x = x;
    chart.series[0].y = y;
    const char *svg = draw(&chart);
    double left, right, top, bottom;
    marker_at(svg, "one (1, 0.001)", &left, &bottom);
    marker_at(svg, "one (1,000, 10)", &right, &top);
    assert_true(fabs(left + (right - left) * 2 / 3 - text_at(svg, "100", "x")) < 0.11);
    assert_true(fabs(bottom + (top - bottom) / 4 + 4 - text_at(svg, "0.01", "y")) < 0.11);
    assert_null(strstr(svg, "(10, -5)")); /* what a logarithm does not have is not drawn */
}

static void bars_end_at_their_values(void **state)
{
    (void)state;
    const char *const categories[] = {"a", "b"};
    const double low[] = {20, 40}, high[] = {30, NAN}, reference[] = {25, NAN};
    qr_chart chart = {.kind = QR_CHART_STACKED_BARS,
                      .id = "bars",
                      .y = {.title = "%", .min = 0, .max = 100},
                      .num_series = 2,
                      .categories = categories,
                      .num_categories = 2,
                      .reference_name = "paper",
                      .value_decimals = 1,
                      .series = {{.name = "low", .y = low, .reference = reference, .count = 2},
                                 {.name = "high", .y = high, .count = 2}}};
    for (int kind = QR_CHART_GROUPED_BARS; kind <= QR_CHART_STACKED_BARS; kind++) {
        chart.kind = (qr_chart_kind)kind;
        const char *svg = draw(&chart);
        double per_unit = (text_at(svg, "0", "y") - text_at(svg, "100", "y")) / 100;
        double zero = text_at(svg, "0", "y") - 4, y, height;
        const char *bar = strstr(svg, "<title>a, high: 30");
        while (strncmp(bar, "<rect", 5) != 0) bar--;
        sscanf(strstr(bar, " y="), " y=\"%lf\"", &y);
        sscanf(strstr(bar, " height="), " height=\"%lf\"", &height);
        assert_true(fabs(height - 30 * per_unit) < 0.2);
        assert_true(fabs(zero - y - (kind == QR_CHART_STACKED_BARS ? 50 : 30) * per_unit) < 0.2);
        assert_non_null(strstr(svg, "paper: 25"));
        assert_null(strstr(svg, "b, high"));
    }
}

static void ticks_are_nice(void **state)
{
    (void)state;
    struct {
        double min, max;
        bool log, binary, widen;
        const char *labels;
    } cases[] = {
        {0, 100, false, false, true, "0 20 40 60 80 100 "},
        {0, 0.97, false, false, true, "0.0 0.2 0.4 0.6 0.8 1.0 "},
        {0, 12345, false, false, true, "0 5,000 10,000 15,000 "},
        {-3, 7, false, false, true, "-4 -2 0 2 4 6 8 "},
        {0, 3.6, false, false, false, "0 1 2 3 "},
        {7, 7, false, false, true, "0 2 4 6 8 "},
        {0, 0, false, false, true, "0.0 0.2 0.4 0.6 0.8 1.0 "},
        {2, 1, false, false, true, "0.0 0.2 0.4 0.6 0.8 1.0 "},
        {0, 3e-6, false, false, true, "0 1e-06 2e-06 3e-06 "},
        {0, 4e8, false, false, true, "0 1e+08 2e+08 3e+08 4e+08 "},
        {1, 1000, true, false, true, "1 10 100 1,000 "},
        {0.03, 0.4, true, false, true, "0.02 0.05 0.1 0.2 0.5 "},
        {1, 256, true, true, false, "1 4 16 64 256 "},
        {16, 16, true, true, false, "16 32 "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_scale scale;
        char text[400] = "", label[QR_SCALE_LABEL_BYTES];
        qr_scale_fit(&scale, cases[i].min, cases[i].max, cases[i].log, cases[i].binary, cases[i].widen, 7);
        for (int t = 0; t < scale.num_ticks; t++) {
            qr_scale_tick_label(&scale, t, label);
            strcat(strcat(text, label), " ");
        }
        assert_string_equal(text, cases[i].labels);
    }
}

static void scales_stand_any_range(void **state)
{
    (void)state;
    static const double extremes[] = {-INFINITY, -1.7e308, -1e18,        -1,   -1e-300, 0,       4.9e-324, 1e-300,
                                      0.1,       1,        1.0000000001, 1e18, 1e300,   1.7e308, INFINITY, NAN};
    const size_t count = sizeof extremes / sizeof *extremes;
    for (size_t a = 0; a < count; a++)
        for (size_t b = 0; b < count; b++)
            for (int mode = 0; mode < 24; mode++) {
                qr_scale scale;
                int max_ticks = mode / 6 * 7;
                qr_scale_fit(&scale, extremes[a], extremes[b], mode % 3 > 0, mode % 3 > 1, mode / 3 % 2, max_ticks);
                scale.from = 300;
                scale.to = 10;
                assert_true(scale.min < scale.max && isfinite(scale.min) && isfinite(scale.max));
                assert_true(!scale.log || scale.min > 0);
                assert_true(scale.num_ticks >= 1 && scale.num_ticks <= QR_SCALE_MAX_TICKS);
                for (int t = 0; t < scale.num_ticks; t++) {
                    double pixel = qr_scale_pixel(&scale, scale.ticks[t]);
                    assert_true(pixel >= 9.9 && pixel <= 300.1);
                    assert_true(t == 0 || scale.ticks[t] > scale.ticks[t - 1]);
                }
            }
}

/* ---- what is odd -------------------------------------------------------------------------------- */

static void hostile_text_stays_text(void **state)
{
    (void)state;
    static char endless[5000];
    memset(endless, 'W', sizeof endless - 1);
    const char *const texts[] = {"</text></svg><script>alert(1)</script>",
                                 "\" onload=\"alert(1)",
                                 "]]> & &amp; <!-- ' -->",
                                 "\x01\x1F\x7F\xC3(\xF0\x9F\x93\xED\xA0\x80\xEF\xBF\xBE",
                                 "",
                                 "        ",
                                 "\xE7\xB4\x99\xE3\x81\xAE\xE5\xB8\x96 \xD8\xB1\xD9\x82",
                                 endless};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *text = texts[i], *const categories[] = {text, text, text};
        for (int kind = QR_CHART_LINES; kind <= QR_CHART_STACKED_BARS; kind++) {
            qr_chart chart = {.kind = (qr_chart_kind)kind,
                              .id = "hostile",
                              .title = text,
                              .description = text,
                              .x.title = text,
                              .y.title = text,
                              .num_series = 2,
                              .reference_name = text,
                              .categories = categories,
                              .num_categories = 3,
                              .num_thresholds = 1,
                              .thresholds = {{20, text}},
                              .num_notes = 2,
                              .notes = {{1, 20, text}, {1, 20, text}},
                              .series = {{.name = text, .x = one_to_four, .y = tens, .reference = tens, .count = 3},
                                         {.name = text, .x = one_to_four, .y = tens, .count = 3}}};
            const char *svg = draw(&chart);
            assert_null(strstr(svg, "<script"));
            assert_null(strstr(svg, "\" onload"));
        }
    }
}

static void odd_data_draws_something(void **state)
{
    (void)state;
    static const double nothing[] = {NAN, NAN, INFINITY}, same[] = {5, 5, 5}, huge[] = {-1.7e308, 0, 1.7e308},
                        tiny[] = {4.9e-324, 1e-310, 1e-300}, gap[] = {1, NAN, 3};
    static const double *const data[] = {nothing, same, huge, tiny, gap};
    static const char *const categories[] = {"a", "b", "c"};
    for (int i = 0; i < 5; i++)
        for (int count = 0; count <= 3; count++)
            for (int mode = 0; mode < 12; mode++) {
                qr_chart chart = {.kind = (qr_chart_kind)(mode % 3),
                                  .id = "odd",
                                  .x.log = mode / 6,
                                  .y.log = mode / 3 % 2,
                                  .num_series = 1,
                                  .categories = categories,
                                  .num_categories = count,
                                  .series = {{.x = data[i], .y = data[i], .count = count, .stairs = mode / 6}}};
                const char *svg = draw(&chart);
                if (data[i] == nothing || count == 0) assert_non_null(strstr(svg, "no data"));
            }
    qr_chart none = {.id = "none"};
    assert_non_null(strstr(draw(&none), "no data"));
    qr_chart alone = lines();
    alone.series[0].count = 1;
    double x, y;
    marker_at(draw(&alone), "one (1, 10)", &x, &y);
    assert_true(x > 0 && x < 480 && y > 0 && y < 320);
}

/* A long series keeps its extremes in a text of bounded size. */
static void long_series_are_reduced(void **state)
{
    (void)state;
    enum { COUNT = 200000 };
    double *x = malloc(COUNT * sizeof *x), *y = malloc(COUNT * sizeof *y);
    for (int i = 0; i < COUNT; i++) {
        x[i] = i;
        y[i] = i == 123456 ? 1000 : i % 100;
    }
    qr_chart chart = lines();
    chart.series[0] = (qr_chart_series){.name = "long", .x = x, .y = y, .count = COUNT};
    const char *svg = draw(&chart);
    assert_true(strlen(svg) < 40000);
    char top[32];
    snprintf(top, sizeof top, "V%.1fV", text_at(svg, "1,000", "y") - 4);
    assert_non_null(strstr(svg, top));
    free(x);
    free(y);
}

static void charts_repeat(void **state)
{
    (void)state;
    qr_chart chart = lines();
    char *first = qr_strdup(draw(&chart));
    assert_string_equal(first, draw(&chart));
    qr_free(first);
    chart.id = "other"; /* two charts in one page share no id */
    assert_null(strstr(draw(&chart), "\"c-"));
}

/* ---- failures ----------------------------------------------------------------------------------- */

static void failures_are_reported(void **state)
{
    (void)state;
    qr_chart chart = lines();
    assert_int_equal(qr_chart_save(&chart, "/dev/full", &error), QUIRE_IO);
    assert_non_null(strstr(error.message, "/dev/full"));
    assert_int_equal(qr_chart_save(&chart, "/nowhere/at/all.svg", &error), QUIRE_IO);
    assert_non_null(strstr(error.message, "cannot create"));
    assert_int_equal(qr_chart_save(&chart, "/dev/null", &error), QUIRE_OK);
    for (uint64_t n = 0; n < 8; n++) {
        qr_mem_fail_after(n);
        quire_status status = qr_chart_save(&chart, "/dev/null", &error);
        bool failed = qr_mem_num_allocations() > n;
        qr_mem_fail_off();
        assert_int_equal(status, failed ? QUIRE_NOMEM : QUIRE_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_stand_at_their_ticks),
        cmocka_unit_test(log_axes_show_decades),
        cmocka_unit_test(bars_end_at_their_values),
        cmocka_unit_test(ticks_are_nice),
        cmocka_unit_test(scales_stand_any_range),
        cmocka_unit_test(hostile_text_stays_text),
        cmocka_unit_test(odd_data_draws_something),
        cmocka_unit_test(long_series_are_reduced),
        cmocka_unit_test(charts_repeat),
        cmocka_unit_test(failures_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
