/* routes: the table of paths, and the answers that need neither engine nor worker.
 * Threads: loop thread; qr_routes_serves_model anywhere. */
#ifndef QR_SERVER_ROUTES_H
#define QR_SERVER_ROUTES_H

#include "server/call.h"

struct qr_route {
    const char *path;                                /* a trailing "/" stands for that and one more segment */
    const char *method;                              /* "GET" (HEAD too) or "POST" */
    bool needs_key;                                  /* with an API key configured, only for those who have it */
    qr_api_kind kind;                                /* POST: what the body is; 0: the body is ignored */
    void (*answer)(qr_call *call, const char *path); /* NULL: a worker reads the body */
};

/* The route of a path and method. NULL: *out_allow is the method that would do, or NULL when the path is unknown. */
const qr_route *qr_routes_find(const char *path, const char *method, const char **out_allow);
bool qr_routes_serves_model(const qr_server *server, const char *name);
/* metrics.c: GET /metrics in Prometheus' text format, under vLLM's names. */
void qr_metrics_answer(qr_call *call, const char *path);

#endif
