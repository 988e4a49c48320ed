/* chat_template: the Jinja subset (and a little more) that real chat templates use, rendered exactly as Python's
 * jinja2 does under transformers' settings (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls,
 * tojson with ensure_ascii=False, raise_exception, strftime_now).
 *
 *   source ─► lexer ─► parser ─► tree (arena) ─► interpreter over values ─► text
 *
 * Left out: templates that load others (include, import, extends), autoescape, integers beyond 64 bits, and the filters
 * random, pprint, urlize and wordwrap; each is an error that says so.
 *
 * A template is untrusted input: steps, memory, recursion and output are bounded (limits in jinja_core.h) and every
 * error names line and cause.  Threads: a parsed template is immutable; render from any thread. */
#ifndef QR_TEXT_CHAT_TEMPLATE_H
#define QR_TEXT_CHAT_TEMPLATE_H

#include <jansson.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct qr_chat_template qr_chat_template;

QUIRE_MUST_USE quire_status qr_chat_template_parse(const char *source, size_t source_bytes, qr_chat_template **out,
                                                   quire_error *error);
void qr_chat_template_destroy(qr_chat_template *tmpl); /* NULL is fine */

/* Render with `vars` (a JSON object: messages, tools, bos_token, eos_token, add_generation_prompt, ...), appended to
 * `out`. INVALID when the template raises (raise_exception, undefined access, type errors) with line and text;
 * UNSUPPORTED for a limit; NOMEM. `now` feeds strftime_now: seconds since the epoch, shown in UTC; < 0: the present,
 * in local time as Python's datetime.now(). */
QUIRE_MUST_USE quire_status qr_chat_template_render(const qr_chat_template *tmpl, const json_t *vars, int64_t now,
                                                    qr_buf *out, quire_error *error);

#endif
