/* Where models lie, and how the parts of a split one are named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/checkpoint_impl.h"

char *quire_model_dir(void)
{
    const char *models = getenv("QUIRE_MODELS"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    qr_buf path = {0};
    int rc;
    if (models && models[0])
        rc = qr_buf_printf(&path, "%s", models);
    else if (cache && cache[0])
        rc = qr_buf_printf(&path, "%s/quire/models", cache);
    else
        rc = qr_buf_printf(&path, "%s/.cache/quire/models", home && home[0] ? home : ".");
    return rc == 0 ? path.data : NULL;
}

static bool read_5_digits(const char *s, int *out)
{
    *out = 0;
    for (int i = 0; i < 5; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        *out = *out * 10 + (s[i] - '0');
    }
    return true;
}

bool qr_split_name_parse(const char *name, qr_split_name *out)
{
    static const char pattern[] = "-00001-of-00002.gguf";
    size_t len = strlen(name), suffix_len = sizeof pattern - 1;
    if (len <= suffix_len) return false;
    const char *suffix = name + len - suffix_len;
    out->stem_bytes = len - suffix_len;
    return suffix[0] == '-' && read_5_digits(suffix + 1, &out->part) && memcmp(suffix + 6, "-of-", 4) == 0 &&
           read_5_digits(suffix + 10, &out->num_parts) && strcmp(suffix + 15, ".gguf") == 0 && out->part >= 1 &&
           out->part <= out->num_parts;
}

char *qr_split_name_part(const char *name, const qr_split_name *split, int part)
{
    qr_buf path = {0};
    int rc = qr_buf_printf(&path, "%.*s-%05d-of-%05d.gguf", (int)split->stem_bytes, name, part, split->num_parts);
    return rc == 0 ? path.data : NULL;
}
