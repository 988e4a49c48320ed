#include "sim/beams.h"

#include <string.h>

#include "base/mem.h"
#include "sim/embedded.h"

void qr_sim_beams_deinit(qr_sim_beams *beams)
{
    for (int width = 0; width <= QR_SIM_MAX_WIDTH; width++) qr_free(beams->parents[width]);
    *beams = (qr_sim_beams){0};
}

static quire_status reserve_row(qr_sim_beams *beams, int width, quire_error *error)
{
    if (beams->num_rows[width] < beams->max_rows[width]) return QUIRE_OK;
    const size_t more = 2 * beams->max_rows[width] + 256;
    uint8_t *bigger = qr_realloc(beams->parents[width], more * (size_t)width);
    if (!bigger) return qr_fail_nomem(error, "beam record", more * (size_t)width);
    beams->parents[width] = bigger;
    beams->max_rows[width] = more;
    return QUIRE_OK;
}

/* One word: a digit below width for each beam. */
static quire_status read_step(const char *name, int line, int width, const char *word, size_t length, qr_sim_beams *out,
                              quire_error *error)
{
    QR_TRY(reserve_row(out, width, error));
    uint8_t *row = out->parents[width] + out->num_rows[width] * (size_t)width;
    for (size_t i = 0; i < length; i++) {
        const int parent = word[i] - '0';
        if (length != (size_t)width || parent < 0 || parent >= width)
            return qr_fail(error, QUIRE_FORMAT, "%s: line %d: words of %d digits below %d are expected", name, line,
                           width, width);
        row[i] = (uint8_t)parent;
    }
    out->num_rows[width]++;
    return QUIRE_OK;
}

static quire_status read_search(const char *name, int line, const char *at, const char *end, qr_sim_beams *out,
                                quire_error *error)
{
    int width = 0;
    while (at < end && *at >= '0' && *at <= '9' && width <= QR_SIM_MAX_WIDTH) width = 10 * width + (*at++ - '0');
    if (at == end || *at++ != ',' || width < 2 || width > QR_SIM_MAX_WIDTH)
        return qr_fail(error, QUIRE_FORMAT, "%s: line %d: a beam width from 2 to %d and a comma are expected", name,
                       line, QR_SIM_MAX_WIDTH);
    while (at < end) {
        const char *space = memchr(at, ' ', (size_t)(end - at)), *word_end = space ? space : end;
        if (word_end > at) QR_TRY(read_step(name, line, width, at, (size_t)(word_end - at), out, error));
        at = space ? space + 1 : end;
    }
    return QUIRE_OK;
}

static quire_status read_all(const char *name, const char *text, size_t bytes, qr_sim_beams *out, quire_error *error)
{
    static const char header[] = "width,parents";
    const char *end = text + bytes;
    int line = 0;
    for (const char *at = text, *next; at < end; at = next) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *line_end = newline ? newline : end;
        next = newline ? newline + 1 : end;
        if (line_end > at && line_end[-1] == '\r') line_end--;
        if (++line > 1 && line_end > at) QR_TRY(read_search(name, line, at, line_end, out, error));
        if (line == 1 && ((size_t)(line_end - at) != strlen(header) || memcmp(at, header, strlen(header)) != 0))
            return qr_fail(error, QUIRE_FORMAT, "%s: line 1: %s is expected", name, header);
    }
    for (int width = 2; width <= QR_SIM_MAX_WIDTH; width++)
        if (out->num_rows[width] > 0) return QUIRE_OK;
    return qr_fail(error, QUIRE_FORMAT, "%s: no searches", name);
}

quire_status qr_sim_beams_parse(const char *name, const char *text, size_t bytes, qr_sim_beams *out, quire_error *error)
{
    *out = (qr_sim_beams){0};
    const quire_status status = read_all(name, text, bytes, out, error);
    if (status != QUIRE_OK) qr_sim_beams_deinit(out);
    return status;
}

quire_status qr_sim_beams_recorded(qr_sim_beams *out, quire_error *error)
{
    return qr_sim_beams_parse("beam_parents.csv", qr_sim_beams_csv, (size_t)(qr_sim_beams_csv_end - qr_sim_beams_csv),
                              out, error);
}
