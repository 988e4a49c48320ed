/* trace_impl: what the files that make traces share. */
#ifndef QR_SIM_TRACE_IMPL_H
#define QR_SIM_TRACE_IMPL_H

#include "sim/trace.h"

/* Append a row. OK | NOMEM (unchanged) */
QUIRE_MUST_USE quire_status qr_sim_trace_add(qr_sim_trace *trace, qr_sim_row row, quire_error *error);

#endif
