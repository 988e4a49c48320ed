/* Any bytes as a chat template, rendered with a conversation that has text, tools and tool calls: text or an error,
 * within the limits on steps, memory and depth. The output must be valid UTF-8. */
#include <string.h>

#include "text/chat_template.h"
#include "text/jinja_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char VARS[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be terse.\"}, {\"role\": \"user\", \"content\": \"日本 "
    "\\ud83d"
    "\\ude00 <b>\"},"
    " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"abcdefghi\", \"type\": \"function\","
    " \"function\": {\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2.5, null, true]}}}]},"
    " {\"role\": \"tool\", \"tool_call_id\": \"abcdefghi\", \"content\": \"3\"}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"add\", \"description\": \"Add\", \"parameters\":"
    " {\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}}, \"required\": [\"a\"]}}}],"
    " \"documents\": null, \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\","
    " \"s\": \"Hello World\", \"n\": 7, \"f\": 2.5, \"l\": [3, 1, 2], \"d\": {\"b\": 1, \"a\": 2}, \"text\":"
    " \"a\\nb\\n\\nc\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *vars;
    if (!vars) vars = json_loads(VARS, 0, NULL);
    if (!vars) __builtin_trap();
    qr_chat_template *tmpl = NULL;
    quire_error error = {0};
    qr_buf out = {0};
    quire_status status = qr_chat_template_parse((const char *)data, size, &tmpl, &error);
    if (status == QUIRE_OK) status = qr_chat_template_render(tmpl, vars, 1753920000, &out, &error);
    if (status == QUIRE_OK) {
        if (out.len && !qr_jtext_valid(out.data, out.len)) __builtin_trap();
    } else if (out.len != 0 || !error.message[0] || !qr_jtext_valid(error.message, strlen(error.message))) {
        __builtin_trap();
    }
    qr_chat_template_destroy(tmpl);
    qr_free(out.data);
    return 0;
}
