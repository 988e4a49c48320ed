/* xml: markup written by hand into a growing buffer; for SVG and HTML alike.
 *
 *   qr_xml x = {0};
 *   qr_xml_printf(&x, "<text x=\"%.2f\">", 3.5);    markup: nothing is escaped
 *   qr_xml_text(&x, label);                         text or an attribute's value: <, >, &, " and ' are escaped
 *   if (x.failed) ...                               one check at the end: a failed allocation sticks
 *
 * What qr_xml_text() writes is well-formed whatever it is given: invalid UTF-8 and characters that XML forbids become
 * U+FFFD.
 * Threads: one at a time per buffer. */
#ifndef QR_REPORT_XML_H
#define QR_REPORT_XML_H

#include "base/mem.h"
#include "base/status.h"

typedef struct qr_xml {
    qr_buf buf;
    bool failed; /* an allocation failed; the text is incomplete */
} qr_xml;

void qr_xml_deinit(qr_xml *x);
void qr_xml_printf(qr_xml *x, const char *fmt, ...) QR_PRINTF(2, 3);
void qr_xml_raw(qr_xml *x, const char *markup);
void qr_xml_text(qr_xml *x, const char *text); /* NULL is nothing */
void qr_xml_text_bytes(qr_xml *x, const char *text, size_t bytes);

/* Make a folder for files, unless it is there. OK | IO: it can neither be made nor written to. */
QUIRE_MUST_USE quire_status qr_xml_make_dir(const char *dir, quire_error *error);
/* Write the buffer as a file; "-" is standard output. OK | NOMEM when the buffer failed | IO, also when the disk is
 * full; what was there is then lost. */
QUIRE_MUST_USE quire_status qr_xml_save(const qr_xml *x, const char *path, quire_error *error);

#endif
