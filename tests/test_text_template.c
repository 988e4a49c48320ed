/* chat templates against jinja2's own renderings (tests/golden/templates), limits, failed allocations. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/chat_template.h"

#define FOLDER "tests/golden/templates/"

static json_t *load(const char *name)
{
    char path[512];
    json_error_t at;
    snprintf(path, sizeof path, FOLDER "%s", name);
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &at);
    if (!json) fail_msg("%s: line %d: %s", path, at.line, at.text);
    return json;
}

static quire_status render(const char *source, size_t bytes, const json_t *vars, int64_t now, qr_buf *out,
                           quire_error *error)
{
    qr_chat_template *tmpl = NULL;
    quire_status status = qr_chat_template_parse(source, bytes, &tmpl, error);
    if (status == QUIRE_OK) status = qr_chat_template_render(tmpl, vars, now, out, error);
    qr_chat_template_destroy(tmpl);
    return status;
}

/* What follows "chat template, line N: ". */
static const char *without_line(const char *message)
{
    const char *colon = strstr(message, ": ");
    return strncmp(message, "chat template, line ", 20) == 0 && colon ? colon + 2 : message;
}

/* Compare with jinja2's "text", "raised" (the message too) or "error"; false and a report when it differs. */
static bool agrees(const char *name, const char *source, size_t bytes, const json_t *vars, int64_t now,
                   const json_t *expected)
{
    qr_buf out = {0};
    quire_error error = {0};
    quire_status status = render(source, bytes, vars, now, &out, &error);
    const json_t *text = json_object_get(expected, "text"), *raised = json_object_get(expected, "raised");
    bool ok;
    if (text)
        ok = status == QUIRE_OK && out.len == json_string_length(text) &&
             (out.len == 0 || memcmp(out.data, json_string_value(text), out.len) == 0);
    else
        ok = status == QUIRE_INVALID && out.len == 0 &&
             (!raised || strcmp(without_line(error.message), json_string_value(raised)) == 0);
    if (!ok)
        print_error("%s\n  template: %.300s\n  expected: %s\n  got:      %s\n", name, source,
                    text     ? json_string_value(text)
                    : raised ? json_string_value(raised)
                             : json_string_value(json_object_get(expected, "error")),
                    status == QUIRE_OK ? (out.data ? out.data : "") : error.message);
    qr_free(out.data);
    return ok;
}

static void snippets_as_jinja2(void **state)
{
    (void)state;
    json_t *golden = load("snippets.json"), *test;
    int64_t now = json_integer_value(json_object_get(golden, "now"));
    size_t i, num_bad = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, test)
    {
        const json_t *source = json_object_get(test, "template");
        num_bad += !agrees("snippet", json_string_value(source), json_string_length(source),
                           json_object_get(golden, "vars"), now, test);
    }
    assert_true(i >= 500);
    assert_int_equal(num_bad, 0);
    json_decref(golden);
}

static char *read_source(const char *name, size_t *bytes)
{
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s", name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = malloc(1 << 20);
    *bytes = fread(text, 1, 1 << 20, file);
    fclose(file);
    return text;
}

static size_t check_template(const char *name, const json_t *conversations)
{
    char golden_name[300];
    snprintf(golden_name, sizeof golden_name, "%.*s.json", (int)(strlen(name) - strlen(".jinja")), name);
    json_t *golden = load(golden_name), *conversation;
    int64_t now = json_integer_value(json_object_get(conversations, "now"));
    size_t bytes, i, num_bad = 0;
    char *source = read_source(name, &bytes);
    json_array_foreach(json_object_get(conversations, "cases"), i, conversation)
    {
        const json_t *test = json_array_get(json_object_get(golden, "cases"), i);
        const char *label = json_string_value(json_object_get(conversation, "label"));
        assert_string_equal(label, json_string_value(json_object_get(test, "label")));
        if (agrees(label, source, bytes, json_object_get(conversation, "vars"), now, test)) continue;
        print_error("  in %s\n", name);
        num_bad++;
    }
    free(source);
    json_decref(golden);
    return num_bad;
}

static void chats_as_jinja2(void **state)
{
    (void)state;
    json_t *conversations = load("conversations.json");
    size_t num_templates = 0, num_bad = 0;
    DIR *dir = opendir(FOLDER);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".jinja") != 0) continue;
        num_bad += check_template(entry->d_name, conversations);
        num_templates++;
    }
    closedir(dir);
    json_decref(conversations);
    assert_true(num_templates >= 10);
    assert_int_equal(num_bad, 0);
}

static void errors_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
    } cases[] = {
        {"a\nb\n{{ x.y }}", "chat template, line 3: 'x' is undefined"},
        {"{% if 1 %}\n{% for %}", "chat template, line 2: expected an expression, got '%}'"},
        {"{% set m = {} %}\n\n{{ m.content.text }}", "chat template, line 3: 'dict object' has no attribute 'content'"},
        {"\n{{ 'a' + 1 }}", "chat template, line 2: unsupported operand type(s) for +: 'str' and 'int'"},
        {"{{ x|nope }}", "chat template, line 1: No filter named 'nope'."},
        {"{% raw %}\n{{ x }}", "chat template, line 1: Missing end of raw directive"},
        {"{% for x in y %}\n", "chat template, line 2: Unexpected end of template: 'endfor' is missing"},
    };
    json_t *vars = json_object();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        quire_error error = {0};
        qr_buf out = {0};
        assert_int_equal(render(cases[i].source, strlen(cases[i].source), vars, 0, &out, &error), QUIRE_INVALID);
        /* an unfinished raw or block may be reported where it begins or where the text ends */
        assert_string_equal(without_line(error.message), without_line(cases[i].message));
        if (i < 5) assert_string_equal(error.message, cases[i].message);
        qr_free(out.data);
    }
    quire_error error;
    qr_chat_template *tmpl;
    assert_int_equal(qr_chat_template_parse("a\xff", 2, &tmpl, &error), QUIRE_INVALID);
    assert_null(tmpl);
    json_decref(vars);
}

static void limits_hold(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n ~ n) }}{% endmacro %}{{ f('x') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 9999999999 }}",
        "{{ [0] * 9999999999 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s|replace('x', 'xx') %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = n.l|map('e') %}{% endfor %}{{ n.l|list }}",
        "{% for i in range(99999) %}{{ '%9999d' % 1 }}{% endfor %}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ 'x'.center(999999999999) }}",
        "{{ range(99999)|join(range(99999)|join) }}",
        "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ 2 ** 64 }}",
        "{{ 10 ** 19 }}",
    };
    json_t *vars = json_object();
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        quire_error error = {0};
        qr_buf out = {0};
        assert_int_equal(qr_buf_append(&out, "before", 6), 0);
        quire_status status = render(sources[i], strlen(sources[i]), vars, 0, &out, &error);
        if (status != QUIRE_UNSUPPORTED) fail_msg("%s: status %d %s", sources[i], status, error.message);
        assert_string_equal(out.data, "before");
        qr_free(out.data);
    }
    json_decref(vars);
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    static const char *const nests[][2] = {
        {"{{ ", "("},   {"{{ ", "["},   {"{{ ", "not "},          {"{{ ", "-"},     {"", "{% if 1 %}"}, {"{{ ", "{"},
        {"{{ x", "[x"}, {"{{ f", "(f"}, {"", "{% for a in b %}"}, {"{{ ", "1 if "}, {"{% set ", "("}};
    enum { LEVELS = 100000 };
    quire_error error;
    qr_chat_template *tmpl;
    for (size_t i = 0; i < sizeof nests / sizeof *nests; i++) {
        qr_buf source = {0};
        assert_int_equal(qr_buf_append(&source, nests[i][0], strlen(nests[i][0])), 0);
        for (int n = 0; n < LEVELS; n++) assert_int_equal(qr_buf_append(&source, nests[i][1], strlen(nests[i][1])), 0);
        quire_status status = qr_chat_template_parse(source.data, source.len, &tmpl, &error);
        assert_true(status == QUIRE_UNSUPPORTED || status == QUIRE_INVALID);
        assert_null(tmpl);
        qr_free(source.data);
    }
    json_t *deep = json_array();
    for (int n = 0; n < 1000; n++) {
        json_t *outer = json_array();
        json_array_append_new(outer, deep);
        deep = outer;
    }
    json_t *vars = json_pack("{s:o}", "x", deep);
    qr_buf out = {0};
    assert_int_equal(render("{{ x }}", 7, vars, 0, &out, &error), QUIRE_UNSUPPORTED);
    json_decref(vars);
    qr_free(out.data);
}

static void render_appends_and_shares_the_tree(void **state)
{
    (void)state;
    quire_error error;
    qr_chat_template *tmpl = NULL;
    qr_buf out = {0};
    json_t *vars = json_pack("{s:i}", "n", 1);
    const char *source = "{% set n = n + 1 %}[{{ n }}]";
    assert_int_equal(qr_chat_template_parse(source, strlen(source), &tmpl, &error), QUIRE_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(qr_chat_template_render(tmpl, vars, -1, &out, &error), QUIRE_OK);
    assert_string_equal(out.data, "[2][2][2]");
    assert_int_equal(qr_chat_template_render(tmpl, NULL, -1, &out, &error), QUIRE_INVALID);
    qr_chat_template_destroy(tmpl);
    qr_chat_template_destroy(NULL);
    json_decref(vars);
    qr_free(out.data);
}

/* Every allocation fails once: NOMEM, nothing leaked, the output as it was. */
static void failed_allocations_are_reported(void **state)
{
    (void)state;
    json_t *conversations = load("conversations.json");
    const json_t *vars = json_object_get(json_array_get(json_object_get(conversations, "cases"), 25), "vars");
    size_t bytes;
    char *source = read_source("typescript_tools.jinja", &bytes);
    uint64_t n = 0;
    for (quire_status status = QUIRE_NOMEM; status != QUIRE_OK; n++) {
        quire_error error;
        qr_buf out = {0};
        qr_mem_fail_after(n);
        status = render(source, bytes, vars, 0, &out, &error);
        qr_mem_fail_off();
        if (status != QUIRE_OK) {
            assert_int_equal(status, QUIRE_NOMEM);
            assert_int_equal(out.len, 0);
        }
        qr_free(out.data);
    }
    assert_true(n > 5);
    free(source);
    json_decref(conversations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snippets_as_jinja2),
        cmocka_unit_test(chats_as_jinja2),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(render_appends_and_shares_the_tree),
        cmocka_unit_test(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests_name("chat templates", tests, NULL, NULL);
}
