#include <stdlib.h>

#include "base/mem.h"
#include "quire.h"

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
