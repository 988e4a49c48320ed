#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"

/* A standard stream that was closed gets a descriptor on which the wrong use fails, so that no file opened later takes
 * its number and our output. */
static void open_standard_streams(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) == -1) (void)!open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

static int fail_unknown_command(int argc, char *const *argv)
{
    char word[64];
    bool is_bench = strcmp(argv[0], "bench") == 0;
    if (is_bench && (argc < 2 || argv[1][0] == '-')) return qr_cli_print_family("bench");
    snprintf(word, sizeof word, "%s%s%s", argv[0], is_bench ? " " : "", is_bench ? argv[1] : "");
    const char *names[32];
    int count = 0;
    for (const qr_cli_command *c = qr_cli_commands; c->name && count < 32; c++) names[count++] = c->name;
    const char *near = qr_options_nearest(word, names, count);
    if (near) return qr_cli_usage_error("", "unknown command '%s'; did you mean '%s'?", word, near);
    return qr_cli_usage_error("", "unknown command '%s'", word);
}

static int run_help(int argc, char *const *argv)
{
    int num_words;
    if (argc == 0) return qr_cli_print_overview(stdout);
    if (strcmp(argv[0], "--man") == 0) return qr_cli_print_man();
    const qr_cli_command *command = qr_cli_find_command(argc, argv, &num_words);
    if (!command) return fail_unknown_command(argc, argv);
    return qr_cli_print_help(command);
}

static void set_log_level(const char *name)
{
    static const char *const names[] = {"debug", "info", "warning", "error", "off"}; /* in qr_log_level's order */
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(name, names[i]) == 0) qr_log_set_level((qr_log_level)i);
}

static int run_command(const qr_cli_command *command, int num_words, int argc, char *const *argv)
{
    static qr_cli_args args;
    quire_error error;
    char *const *command_line = argv;
    argc -= num_words;
    argv += num_words;
    qr_positionals positionals = {args.words, QR_CLI_MAX_WORDS, 0};
    qr_cli_default_args(command, &args);
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return qr_cli_print_help(command);
    positionals.max = *command->arguments ? 1 : 0;
    if (qr_options_parse(command->groups, &args, argc, argv, &positionals, &error) != QUIRE_OK)
        return qr_cli_usage_error(command->name, "%s: %s", command->name, error.message);
    args.num_words = positionals.count;
    if (args.num_words < command->min_words)
        return qr_cli_usage_error(command->name, "%s: %s is missing", command->name, command->arguments);
    set_log_level(args.log_level);
    const int num_ranks = args.model.tensor_parallel_size;
    if (num_ranks > 1 && !qr_cli_is_rank()) return qr_cli_run_ranks(num_ranks, command_line);
    const int status = command->run(&args);
    return args.rank_ended ? QR_CLI_OK : status;
}

static int run(int argc, char *const *argv)
{
    if (argc == 0) return qr_cli_print_overview(stdout);
    const char *first = argv[0];
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0 || strcmp(first, "version") == 0) {
        printf("quire %s\n", quire_version());
        return QR_CLI_OK;
    }
    if (strcmp(first, "help") == 0 || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        return run_help(argc - 1, argv + 1);
    int num_words;
    const qr_cli_command *command = qr_cli_find_command(argc, argv, &num_words);
    if (!command) return fail_unknown_command(argc, argv);
    return run_command(command, num_words, argc, argv);
}

int main(int argc, char **argv)
{
    open_standard_streams();
    signal(SIGPIPE, SIG_IGN);
    int status = run(argc - 1, argv + 1);
    int flushed = qr_cli_flush();
    exit(status != QR_CLI_OK ? status : flushed);
}
