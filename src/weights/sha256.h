/* sha256: the digest of FIPS 180-4, for checking downloads. Own code, because linking libcrypto would cost every start
 * of the program about a millisecond for the one command that needs it.  Threads: any, one hash per thread. */
#ifndef QR_WEIGHTS_SHA256_H
#define QR_WEIGHTS_SHA256_H

#include <stddef.h>

enum { QR_SHA256_HEX_BYTES = 65 };

/* hex: 64 lower-case digits and a NUL */
void qr_sha256_hex(const void *data, size_t bytes, char hex[QR_SHA256_HEX_BYTES]);

#endif
