#include "sim/beams.h"

#include <jansson.h>
#include <stdlib.h>

#include "base/mem.h"

void qr_sim_beams_deinit(qr_sim_beams *beams)
{
    for (int width = 0; width <= QR_SIM_MAX_WIDTH; width++) qr_free(beams->parents[width]);
    *beams = (qr_sim_beams){0};
}

static quire_status read_row(const char *name, int width, size_t row, const json_t *list, uint8_t *out,
                             quire_error *error)
{
    for (int i = 0; i < width; i++) {
        const json_t *parent = json_array_size(list) == (size_t)width ? json_array_get(list, (size_t)i) : NULL;
        if (!json_is_integer(parent) || json_integer_value(parent) < 0 || json_integer_value(parent) >= width)
            return qr_fail(error, QUIRE_FORMAT, "%s: width %d, row %zu: %d numbers from 0 to %d are expected", name,
                           width, row, width, width - 1);
        out[i] = (uint8_t)json_integer_value(parent);
    }
    return QUIRE_OK;
}

static quire_status read_width(const char *name, const char *key, const json_t *rows, qr_sim_beams *out,
                               quire_error *error)
{
    char *end;
    const long width = strtol(key, &end, 10);
    if (*end || width < 2 || width > QR_SIM_MAX_WIDTH)
        return qr_fail(error, QUIRE_FORMAT, "%s: \"%s\" is not a beam width from 2 to %d", name, key, QR_SIM_MAX_WIDTH);
    const size_t num_rows = json_array_size(rows);
    if (num_rows == 0) return qr_fail(error, QUIRE_FORMAT, "%s: width %ld has no rows", name, width);
    if (out->parents[width]) return qr_fail(error, QUIRE_FORMAT, "%s: width %ld is there twice", name, width);
    uint8_t *parents = qr_calloc(num_rows, (size_t)width);
    if (!parents) return qr_fail_nomem(error, "beam statistics", num_rows * (size_t)width);
    out->parents[width] = parents;
    out->num_rows[width] = num_rows;
    for (size_t i = 0; i < num_rows; i++)
        QR_TRY(read_row(name, (int)width, i, json_array_get(rows, i), parents + i * (size_t)width, error));
    return QUIRE_OK;
}

static quire_status read_all(const char *name, json_t *object, qr_sim_beams *out, quire_error *error)
{
    const char *key;
    json_t *rows;
    json_object_foreach(object, key, rows) QR_TRY(read_width(name, key, rows, out, error));
    return QUIRE_OK;
}

quire_status qr_sim_beams_parse(const char *name, const char *json, size_t bytes, qr_sim_beams *out, quire_error *error)
{
    json_error_t at;
    *out = (qr_sim_beams){0};
    json_t *object = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &at);
    quire_status status;
    if (!object)
        status = qr_fail(error, QUIRE_FORMAT, "%s: line %d: %s", name, at.line, at.text);
    else if (!json_is_object(object))
        status = qr_fail(error, QUIRE_FORMAT, "%s: must be a JSON object", name);
    else
        status = read_all(name, object, out, error);
    json_decref(object);
    if (status != QUIRE_OK) qr_sim_beams_deinit(out);
    return status;
}
