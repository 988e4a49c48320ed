/* Which instruction set: the best that the processor has, or the one asked for. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kernels.h"

quire_status qr_cpu_kernels_select(const char *isa, const qr_cpu_kernels **out, quire_error *error)
{
    static const struct {
        const char *name;
        const qr_cpu_kernels *(*get)(void);
    } sets[] = {{"avx512", qr_cpu_kernels_avx512},
                {"avx512bw", qr_cpu_kernels_avx512bw},
                {"avx2", qr_cpu_kernels_avx2},
                {"neon", qr_cpu_kernels_neon},
                {"ref", qr_cpu_kernels_ref}};
    const char *from = "";
    if (!isa || !*isa) {
        isa = getenv("QUIRE_CPU");
        from = " (QUIRE_CPU)";
    }
    bool any = !isa || !*isa;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (!any && strcmp(isa, sets[i].name) != 0) continue;
        const qr_cpu_kernels *kernels = sets[i].get();
        if (kernels && kernels->supported()) {
            *out = kernels;
            return QUIRE_OK;
        }
        if (!any) return qr_fail(error, QUIRE_UNSUPPORTED, "this processor does not have %s%s", isa, from);
    }
    return qr_fail(error, QUIRE_UNSUPPORTED, "unknown instruction set '%s'%s: ref, avx2, avx512bw, avx512 or neon", isa,
                   from);
}
