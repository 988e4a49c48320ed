/* What --help, `quire` alone and the man page say; all of it comes from the tables in commands.c. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { MAN_WIDTH = 78 };

static void print_title(FILE *stream, const char *title)
{
    bool colour = qr_cli_has_colour(stream);
    fprintf(stream, "\n%s%s%s\n", colour ? "\033[1m" : "", title, colour ? "\033[0m" : "");
}

int qr_cli_print_overview(FILE *stream)
{
    fprintf(stream, "quire %s: serve large language models from paged memory\n\nusage: quire COMMAND [options]\n",
            quire_version());
    print_title(stream, "Start here");
    fputs("  quire pull OWNER/MODEL             fetch a model (or take any GGUF file you have)\n"
          "  quire chat model.gguf              talk to it\n"
          "  quire serve model.gguf             OpenAI API on http://127.0.0.1:8000/v1\n",
          stream);
    print_title(stream, "Commands");
    for (const qr_cli_command *c = qr_cli_commands; c->name; c++) fprintf(stream, "  %-18s %s\n", c->name, c->summary);
    fputs("\n`quire help COMMAND` explains one command and lists its options; `quire --version` prints the version.\n",
          stream);
    return QR_CLI_OK;
}

int qr_cli_print_family(const char *word)
{
    printf("usage: quire %s COMMAND [options]\n\n", word);
    for (const qr_cli_command *c = qr_cli_commands; c->name; c++)
        if (strncmp(c->name, word, strlen(word)) == 0) printf("  %-18s %s\n", c->name, c->summary);
    printf("\n`quire help %s COMMAND` explains one of them.\n", word);
    return QR_CLI_OK;
}

static int append_lines(const char *text, const char *prefix, qr_buf *out)
{
    while (*text) {
        size_t bytes = strcspn(text, "\n");
        if (qr_buf_printf(out, "%s%.*s\n", prefix, (int)bytes, text) != 0) return -1;
        text += bytes + (text[bytes] == '\n');
    }
    return 0;
}

static int format_help(const qr_cli_command *command, qr_buf *out)
{
    static qr_cli_args defaults;
    bool colour = qr_cli_has_colour(stdout);
    int width = qr_cli_width();
    qr_cli_default_args(command, &defaults);
    bool optional = command->min_words == 0;
    if (qr_buf_printf(out, "usage: quire %s %s%s%s%s[options]\n\n", command->name,
                      optional && *command->arguments ? "[" : "", command->arguments,
                      optional && *command->arguments ? "]" : "", *command->arguments ? " " : "") != 0 ||
        qr_options_wrap(command->description, 0, 0, width, out) != 0 ||
        qr_buf_printf(out, "\n\n%sExamples%s\n", colour ? "\033[1m" : "", colour ? "\033[0m" : "") != 0 ||
        append_lines(command->examples, "  ", out) != 0)
        return -1;
    return qr_options_help(command->groups, &defaults, width, colour, out);
}

int qr_cli_print_help(const qr_cli_command *command)
{
    qr_buf out = {0};
    int failed = format_help(command, &out);
    if (!failed) fwrite(out.data, 1, out.len, stdout);
    qr_free(out.data);
    return failed ? qr_cli_fail("out of memory") : QR_CLI_OK;
}

/* ---- man page --------------------------------------------------------------------------------- */

/* Roff text: backslashes and dashes made plain, and no line that begins with a request's dot or quote. */
static int man_text(const char *text, qr_buf *out)
{
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && strchr(".'", *text) && qr_buf_append(out, "\\&", 2) != 0) return -1;
        line_start = *text == '\n';
        const char *plain = *text == '-' ? "\\-" : *text == '\\' ? "\\e" : NULL;
        if (plain ? qr_buf_append(out, plain, 2) : qr_buf_append(out, text, 1)) return -1;
    }
    return 0;
}

/* Paragraphs are parted by an empty line in the text, by .PP in roff. */
static int man_paragraphs(const char *text, qr_buf *out)
{
    qr_buf wrapped = {0};
    int failed = qr_options_wrap(text, 0, 0, MAN_WIDTH, &wrapped);
    for (char *at = wrapped.data; !failed && at && *at;) {
        char *gap = strstr(at, "\n\n");
        if (gap) *gap = '\0';
        failed = man_text(at, out) || qr_buf_printf(out, "\n%s", gap ? ".PP\n" : "");
        at = gap ? gap + 2 : NULL;
    }
    qr_free(wrapped.data);
    return failed;
}

static int man_command(const qr_cli_command *command, qr_buf *out)
{
    static qr_cli_args defaults;
    qr_cli_default_args(command, &defaults);
    const char *open = command->min_words == 0 && *command->arguments ? "[" : "";
    if (qr_buf_printf(out, ".SS quire %s %s%s%s\n", command->name, open, command->arguments, *open ? "]" : "") != 0 ||
        man_paragraphs(command->description, out) != 0 || qr_buf_printf(out, ".PP\nExamples:\n.nf\n.RS\n") != 0 ||
        man_text(command->examples, out) != 0 || qr_buf_printf(out, "\n.RE\n.fi\n") != 0)
        return -1;
    return qr_options_man(command->groups, &defaults, out);
}

static const char man_head[] =
    ".TH QUIRE 1 \"\" \"quire %s\" \"User Commands\"\n"
    ".SH NAME\nquire \\- serve large language models from paged memory\n"
    ".SH SYNOPSIS\n.B quire\n\\fICOMMAND\\fR [\\fIoptions\\fR]\n.br\n.B quire help\n\\fICOMMAND\\fR\n.br\n"
    ".B quire \\-\\-version\n"
    ".SH DESCRIPTION\n"
    "quire runs language models on the processor. The key\\-value cache of every sequence lives in fixed\\-size\n"
    "blocks of one pool, and one scheduler fills every step of the model with as many tokens as memory and the\n"
    "step's budget allow. Options are written \\fB\\-\\-name value\\fR or \\fB\\-\\-name=value\\fR; defaults are in\n"
    "brackets. Standard output carries data only; messages go to standard error.\n"
    ".SH COMMANDS\n";

static const char man_tail[] =
    ".SH EXIT STATUS\n.TP\n0\nall went well\n.TP\n1\nit failed; one line on standard error says why\n"
    ".TP\n2\nwrong use of the command line\n"
    ".SH ENVIRONMENT\n.TP\nQUIRE_MODELS\nthe model folder\n.TP\nQUIRE_CPU\n"
    "ref, avx2, avx512bw or avx512 forces an instruction set\n"
    ".TP\nHF_ENDPOINT, HF_TOKEN\naddress of the hub, and the token sent to it\n"
    ".TP\nNO_COLOR\nno colours on a terminal when set\n"
    ".SH COPYRIGHT\nMIT licence.\n";

int qr_cli_print_man(void)
{
    qr_buf out = {0};
    int failed = qr_buf_printf(&out, man_head, quire_version());
    for (const qr_cli_command *c = qr_cli_commands; !failed && c->name; c++) failed = man_command(c, &out);
    failed = failed || qr_buf_append(&out, man_tail, sizeof man_tail - 1);
    if (!failed) fwrite(out.data, 1, out.len, stdout);
    qr_free(out.data);
    return failed ? qr_cli_fail("out of memory") : QR_CLI_OK;
}
