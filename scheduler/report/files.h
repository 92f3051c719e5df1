/* A report as files. */
#ifndef SCHEDULER_REPORT_FILES_H
#define SCHEDULER_REPORT_FILES_H

#include "scheduler/report/report.h"

enum report_format { REPORT_HTML, REPORT_CSV, REPORT_JSON, REPORT_MD, REPORT_FORMATS };
const char *report_format_name(enum report_format f); /* "html", ...: also the file's ending */
const char *report_format_type(enum report_format f); /* "text/html", ... */
/* The one of that name, of n bytes. False: there is none. */
bool report_format_parse(const char *name, size_t n, enum report_format *f);
/* focus: of the CSV. */
enum rc report_write(const struct report *r, enum report_format f, enum report_focus focus, FILE *out,
                     struct error *e) SPW_MUST_USE;

/* "spillway-2026-11-28-search.csv"; what a file's name should not hold becomes "_", and then a hash keeps two teams
 * apart. The caller's. */
char *report_file_name(const struct report *r, enum report_format f);
/* Could a report have this name? What is not made of letters, digits, "-", "_", ".", or hidden, is none. */
bool report_file_name_ok(const char *name);
/* Into a folder, which is made (0750) where it is missing: whole or not at all, mode 0640. */
enum rc report_put_file(const struct report *r, enum report_format f, enum report_focus focus, const char *folder,
                        const char *name, struct error *e) SPW_MUST_USE;

#endif
