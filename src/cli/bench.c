#include "cli/bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/batch.h"

/* Token ids that every vocabulary has and none reserves. */
enum { FIRST_ID = 32, LAST_ID = 255 };

/* ---- workload --------------------------------------------------------------------------------- */

void qr_bench_workload_deinit(qr_bench_workload *workload)
{
    for (int i = 0; i < workload->count; i++) {
        qr_free(workload->prompts[i].ids);
        qr_free(workload->prompts[i].text);
    }
    qr_free(workload->prompts);
    *workload = (qr_bench_workload){0};
}

static quire_status add_random_prompt(qr_bench_workload *out, qr_random *random, int num_ids, int output_len,
                                      quire_error *error)
{
    qr_bench_prompt prompt = {.num_ids = num_ids, .output_len = output_len};
    prompt.ids = qr_malloc((size_t)num_ids * sizeof *prompt.ids);
    if (!prompt.ids) return qr_fail_nomem(error, "a prompt", (size_t)num_ids * sizeof *prompt.ids);
    for (int i = 0; i < num_ids; i++)
        prompt.ids[i] = FIRST_ID + (int32_t)(qr_random_next(random) % (LAST_ID - FIRST_ID + 1));
    out->prompts[out->count++] = prompt;
    return QUIRE_OK;
}

static quire_status reserve_prompts(qr_bench_workload *out, int count, quire_error *error)
{
    *out = (qr_bench_workload){0};
    if (count < 1) return qr_fail_param(error, "num-prompts", "--num-prompts must be at least 1");
    out->prompts = qr_calloc((size_t)count, sizeof *out->prompts);
    return out->prompts ? QUIRE_OK : qr_fail_nomem(error, "prompts", (size_t)count * sizeof *out->prompts);
}

quire_status qr_bench_random_prompts(int count, int num_ids, int output_len, uint64_t seed, qr_bench_workload *out,
                                     quire_error *error)
{
    qr_random random = {seed};
    quire_status status = reserve_prompts(out, count, error);
    for (int i = 0; status == QUIRE_OK && i < count; i++)
        status = add_random_prompt(out, &random, num_ids, output_len, error);
    if (status != QUIRE_OK) qr_bench_workload_deinit(out);
    return status;
}

static int random_length(qr_random *random, int length, double range_ratio)
{
    double low = floor(length * (1 - range_ratio)), high = ceil(length * (1 + range_ratio));
    int value = (int)(low + floor(qr_random_uniform(random) * (high - low + 1)));
    return value < 1 ? 1 : value;
}

static quire_status fill_random(const qr_cli_bench_args *args, qr_random *random, qr_bench_workload *out,
                                quire_error *error)
{
    int prefix = args->random_prefix_len;
    for (int i = 0; i < args->num_prompts; i++) {
        int input = random_length(random, args->random_input_len, args->random_range_ratio);
        int output = random_length(random, args->random_output_len, args->random_range_ratio);
        QR_TRY(add_random_prompt(out, random, prefix + input, output, error));
        memcpy(out->prompts[i].ids, out->prompts[0].ids, (size_t)prefix * sizeof *out->prompts[i].ids);
    }
    return QUIRE_OK;
}

typedef struct length_pair {
    int input, output;
} length_pair;

/* Lines "prompt_tokens,output_tokens"; a first line of words is a heading. *out: array freed by the caller. */
static quire_status read_lengths(const char *path, int max_total, length_pair **out, int *out_count, quire_error *error)
{
    qr_buf text = {0}, pairs = {0};
    quire_status status = qr_cli_read_file(path, &text, error);
    int line = 0;
    for (char *at = text.data; status == QUIRE_OK && at && *at; line++) {
        char *next = strchr(at, '\n'), *end = NULL;
        if (next) *next++ = '\0';
        long input = strtol(at, &end, 10), output = *end == ',' ? strtol(end + 1, &end, 10) : 0;
        bool ok = input > 0 && output > 0 && input < 1 << 30 && output < 1 << 30 && end[strspn(end, " \r")] == '\0';
        length_pair pair = {(int)input, (int)output};
        if (!ok && line > 0 && *at)
            status = qr_fail(error, QUIRE_FORMAT, "%s: line %d: not prompt_tokens,output_tokens", path, line + 1);
        else if (ok && (max_total == 0 || input + output <= max_total) && qr_buf_append(&pairs, &pair, sizeof pair))
            status = qr_fail_nomem(error, path, pairs.len);
        at = next;
    }
    qr_free(text.data);
    if (status == QUIRE_OK && pairs.len == 0)
        status = qr_fail(error, QUIRE_FORMAT, "%s: no lengths that fit %d tokens", path, max_total);
    if (status != QUIRE_OK) qr_free(pairs.data);
    *out = (length_pair *)(void *)pairs.data;
    *out_count = (int)(pairs.len / sizeof(length_pair));
    return status;
}

static quire_status fill_lengths(const qr_cli_bench_args *args, int max_total, qr_random *random,
                                 qr_bench_workload *out, quire_error *error)
{
    length_pair *pairs;
    int count;
    QR_TRY(read_lengths(args->dataset_path, max_total, &pairs, &count, error));
    for (int i = count - 1; i > 0; i--) { /* shuffle, then take from the front, again and again if need be */
        int j = (int)(qr_random_next(random) % (uint64_t)(i + 1));
        length_pair swap = pairs[i];
        pairs[i] = pairs[j];
        pairs[j] = swap;
    }
    quire_status status = QUIRE_OK;
    for (int i = 0; status == QUIRE_OK && i < args->num_prompts; i++)
        status = add_random_prompt(out, random, pairs[i % count].input, pairs[i % count].output, error);
    qr_free(pairs);
    return status;
}

static quire_status read_custom(const char *line, size_t bytes, int default_len, qr_bench_prompt *out)
{
    json_t *object = json_loadb(line, bytes, 0, NULL);
    const json_t *prompt = json_object_get(object, "prompt"), *length = json_object_get(object, "output_tokens");
    quire_status status = QUIRE_FORMAT;
    if (json_is_string(prompt) && (!length || (json_is_integer(length) && json_integer_value(length) > 0 &&
                                               json_integer_value(length) < 1 << 30))) {
        out->text = qr_strdup(json_string_value(prompt));
        out->output_len = length ? (int)json_integer_value(length) : default_len;
        status = out->text ? QUIRE_OK : QUIRE_NOMEM;
    }
    json_decref(object);
    return status;
}

static quire_status fill_custom(const qr_cli_bench_args *args, qr_bench_workload *out, quire_error *error)
{
    enum { MAX_LINE = 1 << 26 };
    FILE *file = fopen(args->dataset_path, "rb");
    if (!file) return qr_fail(error, QUIRE_IO, "%s: %s", args->dataset_path, strerror(errno));
    qr_buf line = {0};
    bool too_long;
    quire_status status = QUIRE_OK;
    for (int n = 1; status == QUIRE_OK && out->count < args->num_prompts; n++) {
        if (qr_cli_read_line(file, MAX_LINE, &line, &too_long) != 1) break;
        if (line.len == 0) continue;
        status = read_custom(line.data, line.len, args->random_output_len, &out->prompts[out->count]);
        if (status == QUIRE_OK)
            out->count++;
        else
            (void)qr_fail(error, status, "%s: line %d: not {\"prompt\": TEXT, \"output_tokens\": N}",
                          args->dataset_path, n);
    }
    qr_free(line.data);
    fclose(file);
    if (status == QUIRE_OK && out->count == 0)
        return qr_fail(error, QUIRE_FORMAT, "%s: no prompts", args->dataset_path);
    return status;
}

quire_status qr_bench_workload_init(const qr_cli_bench_args *args, int max_total, qr_bench_workload *out,
                                    quire_error *error)
{
    qr_random random = {args->seed};
    bool is_random = strcmp(args->dataset_name, "random") == 0;
    *out = (qr_bench_workload){0};
    if (!is_random && !args->dataset_path)
        return qr_fail_param(error, "dataset-path", "--dataset-name %s needs --dataset-path", args->dataset_name);
    if (is_random && (args->random_input_len < 1 || args->random_output_len < 1))
        return qr_fail_param(error, "random-input-len", "random lengths must be at least 1");
    QR_TRY(reserve_prompts(out, args->num_prompts, error));
    quire_status status = is_random ? fill_random(args, &random, out, error)
                          : strcmp(args->dataset_name, "custom") == 0
                              ? fill_custom(args, out, error)
                              : fill_lengths(args, max_total, &random, out, error);
    if (status != QUIRE_OK) qr_bench_workload_deinit(out);
    return status;
}

/* ---- results ---------------------------------------------------------------------------------- */

double qr_bench_mean(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += values[i];
    return count ? sum / (double)count : 0;
}

double qr_bench_std(const double *values, size_t count)
{
    double mean = qr_bench_mean(values, count), sum = 0;
    for (size_t i = 0; i < count; i++) sum += (values[i] - mean) * (values[i] - mean);
    return count ? sqrt(sum / (double)count) : 0;
}

double qr_bench_percentile(const double *sorted, size_t count, double percent)
{
    if (count == 0) return 0;
    double rank = percent / 100 * (double)(count - 1);
    size_t low = (size_t)rank;
    if (low + 1 >= count) return sorted[count - 1];
    return sorted[low] + (rank - (double)low) * (sorted[low + 1] - sorted[low]);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void qr_bench_sort(double *values, size_t count) { qsort(values, count, sizeof *values, compare); }

int qr_bench_emit(json_t *result, bool print, const char *path)
{
    char *text = json_dumps(result, JSON_INDENT(2));
    json_decref(result);
    if (!text) return qr_cli_fail("out of memory");
    if (print) puts(text);
    int exit_status = QR_CLI_OK;
    FILE *file = path ? fopen(path, "w") : NULL;
    if (path && (!file || fprintf(file, "%s\n", text) < 0)) exit_status = qr_cli_fail("%s: %s", path, strerror(errno));
    if (file && fclose(file) != 0) exit_status = qr_cli_fail("%s: %s", path, strerror(errno));
    free(text);
    return exit_status;
}
