/* render_cases: renders templates for tests/e2e/test_templates.py. One JSON object a line on stdin,
 * {"template": text, "vars": object, "now": seconds}, one on stdout: {"text": ...} or {"status": ..., "error": ...}. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

#include "text/chat_template.h"

static json_t *render_case(const json_t *test)
{
    const json_t *source = json_object_get(test, "template"), *now = json_object_get(test, "now");
    qr_chat_template *tmpl = NULL;
    quire_error error = {0};
    qr_buf out = {0};
    quire_status status = qr_chat_template_parse(json_string_value(source), json_string_length(source), &tmpl, &error);
    if (status == QUIRE_OK)
        status = qr_chat_template_render(tmpl, json_object_get(test, "vars"), now ? json_integer_value(now) : -1, &out,
                                         &error);
    json_t *result = status == QUIRE_OK
                         ? json_pack("{s:s%}", "text", out.data ? out.data : "", out.len)
                         : json_pack("{s:s, s:s}", "status", quire_status_text(status), "error", error.message);
    qr_chat_template_destroy(tmpl);
    qr_free(out.data);
    return result;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t bytes;
    while ((bytes = getline(&line, &cap, stdin)) > 0) {
        json_t *test = json_loadb(line, (size_t)bytes, JSON_ALLOW_NUL, NULL);
        if (!test) return 2;
        json_t *result = render_case(test);
        if (!result) return 3;
        json_dumpf(result, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(result);
        json_decref(test);
    }
    free(line);
    return 0;
}
