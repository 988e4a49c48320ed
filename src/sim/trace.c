#include "sim/trace.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "sim/trace_impl.h"

void qr_sim_trace_deinit(qr_sim_trace *trace)
{
    qr_free(trace->rows);
    qr_free(trace->hash_ids);
    *trace = (qr_sim_trace){0};
}

/* ---- building ---------------------------------------------------------------------------------- */

/* Room for one element more, doubling. */
static quire_status grow(void *array, size_t size, size_t count, size_t *max, quire_error *error)
{
    if (count < *max) return QUIRE_OK;
    const size_t more = *max ? 2 * *max : 1024;
    void *old;
    memcpy(&old, array, sizeof old);
    void *bigger = more > SIZE_MAX / size ? NULL : qr_realloc(old, more * size);
    if (!bigger) return qr_fail_nomem(error, "trace", more * size);
    memcpy(array, &bigger, sizeof bigger);
    *max = more;
    return QUIRE_OK;
}

quire_status qr_sim_trace_add(qr_sim_trace *trace, qr_sim_row row, quire_error *error)
{
    QR_TRY(grow(&trace->rows, sizeof *trace->rows, trace->num_rows, &trace->max_rows, error));
    trace->rows[trace->num_rows++] = row;
    return QUIRE_OK;
}

static quire_status add_hash(qr_sim_trace *trace, int32_t id, quire_error *error)
{
    QR_TRY(grow(&trace->hash_ids, sizeof *trace->hash_ids, trace->num_hash_ids, &trace->max_hash_ids, error));
    trace->hash_ids[trace->num_hash_ids++] = id;
    return QUIRE_OK;
}

/* ---- parsing ----------------------------------------------------------------------------------- */

typedef struct cursor {
    const char *name;
    const char *at, *end; /* of the current line */
    int line;
} cursor;

static quire_status fail_line(const cursor *c, const char *what, quire_error *error)
{
    return qr_fail(error, QUIRE_FORMAT, "%s: line %d: %s", c->name, c->line, what);
}

/* A whole number of at most QR_SIM_MAX_LENGTH; leaves the cursor behind it. */
static bool read_length(cursor *c, int32_t *out)
{
    int64_t value = 0;
    const char *begin = c->at;
    while (c->at < c->end && isdigit((unsigned char)*c->at) && value <= QR_SIM_MAX_LENGTH)
        value = 10 * value + (*c->at++ - '0');
    *out = (int32_t)value;
    return c->at > begin && value <= QR_SIM_MAX_LENGTH;
}

static bool read_comma(cursor *c) { return c->at < c->end && *c->at++ == ','; }

/* Two lengths to the end of the line. */
static quire_status read_lengths(cursor *c, qr_sim_row *row, quire_error *error)
{
    if (read_length(c, &row->prompt_tokens) && read_comma(c) && read_length(c, &row->output_tokens) && c->at == c->end)
        return QUIRE_OK;
    return fail_line(c, "two lengths between 0 and 16777216 are expected, with a comma between them", error);
}

/* "2023-11-16 18:15:46.6805900" in seconds since some midnight. */
static bool read_timestamp(cursor *c, double *out)
{
    static const char pattern[] = "dddd-dd-dd dd:dd:dd";
    int digits[14], num_digits = 0;
    for (const char *p = pattern; *p; p++, c->at++) {
        if (c->at == c->end || (*p == 'd' ? !isdigit((unsigned char)*c->at) : *c->at != *p)) return false;
        if (*p == 'd') digits[num_digits++] = *c->at - '0';
    }
    const int year = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3];
    const int month = digits[4] * 10 + digits[5], day = digits[6] * 10 + digits[7];
    const int hour = digits[8] * 10 + digits[9], minute = digits[10] * 10 + digits[11];
    const int second = digits[12] * 10 + digits[13];
    if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60) return false;
    /* days of the civil calendar, counted from March so that leap days come last */
    const int64_t y = month <= 2 ? year - 1 : year, m = (month + 9) % 12;
    const int64_t days = 365 * y + y / 4 - y / 100 + y / 400 + (m * 306 + 5) / 10 + day;
    double fraction = 0, scale = 0.1;
    if (c->at < c->end && *c->at == '.')
        for (c->at++; c->at < c->end && isdigit((unsigned char)*c->at); c->at++, scale /= 10)
            fraction += (*c->at - '0') * scale;
    *out = (double)(days * 86400 + hour * 3600 + minute * 60 + second) + fraction;
    return true;
}

static quire_status read_azure(cursor *c, qr_sim_row *row, quire_error *error)
{
    if (!read_timestamp(c, &row->arrival) || !read_comma(c))
        return fail_line(c, "a time such as 2023-11-16 18:15:46.68 and a comma are expected", error);
    return read_lengths(c, row, error);
}

static bool json_length(const json_t *object, const char *key, int32_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > QR_SIM_MAX_LENGTH)
        return false;
    *out = (int32_t)json_integer_value(value);
    return true;
}

static quire_status read_mooncake_object(const cursor *c, const json_t *object, qr_sim_trace *trace, qr_sim_row *row,
                                         quire_error *error)
{
    const json_t *time = json_object_get(object, "timestamp"), *ids = json_object_get(object, "hash_ids");
    if (!json_is_number(time) || !json_length(object, "input_length", &row->prompt_tokens) ||
        !json_length(object, "output_length", &row->output_tokens))
        return fail_line(c, "\"timestamp\", \"input_length\" and \"output_length\" are expected, whole numbers", error);
    row->arrival = json_number_value(time) / 1e3;
    row->first_hash = (int64_t)trace->num_hash_ids;
    if (ids && !json_is_array(ids)) return fail_line(c, "\"hash_ids\" must be an array", error);
    const size_t needed = ((size_t)row->prompt_tokens + QR_SIM_HASH_TOKENS - 1) / QR_SIM_HASH_TOKENS;
    for (size_t i = 0; i < json_array_size(ids) && i < needed; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return fail_line(c, "\"hash_ids\" must be whole numbers below 2147483648", error);
        QR_TRY(add_hash(trace, (int32_t)json_integer_value(id), error));
        row->num_hashes++;
    }
    return QUIRE_OK;
}

static quire_status read_mooncake(cursor *c, qr_sim_trace *trace, qr_sim_row *row, quire_error *error)
{
    json_error_t at;
    json_t *object = json_loadb(c->at, (size_t)(c->end - c->at), 0, &at);
    if (!json_is_object(object)) {
        json_decref(object);
        return fail_line(c, "not a JSON object", error);
    }
    const quire_status status = read_mooncake_object(c, object, trace, row, error);
    json_decref(object);
    return status;
}

typedef enum format { LENGTHS, AZURE, MOONCAKE } format;

static bool line_is(const cursor *c, const char *text)
{
    const size_t length = strlen(text);
    return (size_t)(c->end - c->at) == length && memcmp(c->at, text, length) == 0;
}

static bool recognise(const cursor *c, format *out)
{
    if (line_is(c, "prompt_tokens,output_tokens"))
        *out = LENGTHS;
    else if (line_is(c, "TIMESTAMP,ContextTokens,GeneratedTokens"))
        *out = AZURE;
    else if (c->at < c->end && *c->at == '{')
        *out = MOONCAKE;
    else
        return false;
    return true;
}

static quire_status read_row(cursor *c, format format, qr_sim_trace *trace, quire_error *error)
{
    qr_sim_row row = {0};
    if (format == MOONCAKE)
        QR_TRY(read_mooncake(c, trace, &row, error));
    else
        QR_TRY(format == AZURE ? read_azure(c, &row, error) : read_lengths(c, &row, error));
    if (row.prompt_tokens < 1 || row.output_tokens < 1) return QUIRE_OK;
    if (!(row.arrival >= 0 && row.arrival < 1e15)) return fail_line(c, "the time is out of range", error);
    const qr_sim_row *last = trace->num_rows > 0 ? &trace->rows[trace->num_rows - 1] : NULL;
    if (last && row.arrival < last->arrival) return fail_line(c, "the time is before that of the row above", error);
    return qr_sim_trace_add(trace, row, error);
}

static quire_status parse(cursor *c, const char *text, size_t bytes, qr_sim_trace *out, quire_error *error)
{
    const char *end = text + bytes;
    format format = LENGTHS;
    for (const char *line = text; line < end;) {
        const char *newline = memchr(line, '\n', (size_t)(end - line)), *next = newline ? newline + 1 : end;
        c->line++;
        c->at = line;
        c->end = newline ? newline : end;
        if (c->end > c->at && c->end[-1] == '\r') c->end--;
        line = next;
        if (c->line == 1) {
            if (!recognise(c, &format))
                return fail_line(c,
                                 "not a trace: prompt_tokens,output_tokens or Azure's or Mooncake's first line is "
                                 "expected",
                                 error);
            out->has_arrivals = format != LENGTHS;
            if (format != MOONCAKE) continue;
        }
        if (c->at < c->end) QR_TRY(read_row(c, format, out, error));
    }
    if (out->num_rows == 0) return qr_fail(error, QUIRE_FORMAT, "%s: no requests", c->name);
    const double first = out->rows[0].arrival;
    for (size_t i = 0; i < out->num_rows; i++) out->rows[i].arrival -= first;
    return QUIRE_OK;
}

quire_status qr_sim_trace_parse(const char *name, const char *text, size_t bytes, qr_sim_trace *out, quire_error *error)
{
    cursor c = {.name = name};
    *out = (qr_sim_trace){0};
    const quire_status status = parse(&c, text, bytes, out, error);
    if (status != QUIRE_OK) qr_sim_trace_deinit(out);
    return status;
}

/* ---- lengths ----------------------------------------------------------------------------------- */

void qr_sim_trace_filter(qr_sim_trace *trace, int32_t min_tokens, int32_t max_prompt, int64_t max_total)
{
    size_t kept = 0;
    for (size_t i = 0; i < trace->num_rows; i++) {
        const qr_sim_row r = trace->rows[i];
        const bool too_long = (max_prompt > 0 && r.prompt_tokens > max_prompt) ||
                              (max_total > 0 && (int64_t)r.prompt_tokens + r.output_tokens > max_total);
        if (r.prompt_tokens >= min_tokens && r.output_tokens >= min_tokens && !too_long) trace->rows[kept++] = r;
    }
    trace->num_rows = kept;
}

double qr_sim_trace_mean_prompt(const qr_sim_trace *trace)
{
    double sum = 0;
    for (size_t i = 0; i < trace->num_rows; i++) sum += trace->rows[i].prompt_tokens;
    return trace->num_rows ? sum / (double)trace->num_rows : 0;
}

double qr_sim_trace_mean_output(const qr_sim_trace *trace)
{
    double sum = 0;
    for (size_t i = 0; i < trace->num_rows; i++) sum += trace->rows[i].output_tokens;
    return trace->num_rows ? sum / (double)trace->num_rows : 0;
}
