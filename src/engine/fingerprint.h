/* fingerprint: 128 bits over everything but the tokens that the K and V of a block depend on.
 *
 *   weights (bytes, names, shapes, types) + configuration + compute dtype + device kind + quire's version ─► model
 *   model + kv_cache_dtype + block_size ─► what a stored prefix cache belongs to
 *
 * Weights of up to 1 GiB are hashed whole, of larger ones about 1 GiB in pieces of 64 KiB, spread evenly over
 * every tensor. Threads: any. */
#ifndef QR_ENGINE_FINGERPRINT_H
#define QR_ENGINE_FINGERPRINT_H

#include "engine/model_api.h"

void qr_model_fingerprint(const quire_model *model, const char *kv_cache_dtype, int block_size, uint64_t out[2]);

#endif
