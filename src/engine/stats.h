/* stats: the counters behind quire_stats, with vLLM's histogram buckets. Threads: guarded by the engine's stats lock.
 */
#ifndef QR_ENGINE_STATS_H
#define QR_ENGINE_STATS_H

#include "quire.h"

/* Set up the buckets. max_model_len bounds those that count tokens. */
void qr_stats_init(quire_stats *stats, int max_model_len);
void qr_histogram_observe(quire_histogram *h, double value);

#endif
