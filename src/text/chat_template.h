/* chat_template: the Jinja subset (and a little more) that real chat templates use, rendered exactly as Python's
 * jinja2 does under transformers' settings (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loop controls,
 * tojson with ensure_ascii=False, raise_exception, strftime_now).
 *
 *   source ─► lexer ─► parser ─► tree (arena) ─► interpreter over values ─► text
 *
 * A template is untrusted input: steps, memory, recursion and output are bounded (limits in the .c file) and every
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
 * UNSUPPORTED for a limit; NOMEM. `now` (seconds since the epoch, UTC) feeds strftime_now; < 0: the present. */
QUIRE_MUST_USE quire_status qr_chat_template_render(const qr_chat_template *tmpl, const json_t *vars, int64_t now,
                                                    qr_buf *out, quire_error *error);

#endif
