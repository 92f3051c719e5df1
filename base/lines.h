/* Text files line by line, plain or gzip, and CSV fields in them. Every complaint says file and line. One thread; blocks. */
#ifndef BASE_LINES_H
#define BASE_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

#include "base/error.h"

#define LINES_BYTES_MAX ((size_t)1 << 20) /* of one line */

struct lines {
    gzFile file;
    char *path; /* owned */
    char *buf;  /* owned: LINES_BYTES_MAX bytes and room for a NUL */
    size_t at, end;
    int64_t line;  /* of the one that was read last, 1-based */
    int64_t bytes; /* of the file as it lies on the disk; 0: not known */
    bool eof;
};
/* RC_NOT_FOUND, RC_IO. On failure nothing is held. */
enum rc lines_open(struct lines *l, const char *path, struct error *e) SPW_MUST_USE;
void lines_close(struct lines *l); /* {0} is fine */
/* RC_OK: a line without its end, NUL-terminated, to be written in, until the next call. Empty lines are passed over.
 * RC_NOT_FOUND: the end. RC_INVALID: too long, or holds a NUL; RC_IO: can't be read, or the gzip is damaged. */
enum rc lines_next(struct lines *l, char **text, size_t *n, struct error *e) SPW_MUST_USE;
enum rc lines_rewind(struct lines *l, struct error *e) SPW_MUST_USE;
double lines_done(const struct lines *l); /* share of the file that has been read */
/* "path:line: message"; returns code. */
enum rc lines_error(const struct lines *l, struct error *e, enum rc code, const char *format, ...) SPW_PRINTF(4, 5);
#ifdef __clang_analyzer__ /* see base/error.h */
#define lines_error(l, e, code, ...) error_returned(lines_error(l, e, code, __VA_ARGS__), code)
#endif

#define CSV_FIELDS_MAX 128
struct csv {
    struct lines lines;
    char *head; /* owned: the head line, cut up */
    const char *names[CSV_FIELDS_MAX];
    int n_names;
    char *fields[CSV_FIELDS_MAX]; /* of the row that was read last */
    int n_fields;
};
/* Opens and reads the head line. */
enum rc csv_open(struct csv *c, const char *path, struct error *e) SPW_MUST_USE;
void csv_close(struct csv *c);
/* As lines_next(); a row with another number of fields than the head is RC_INVALID. Quotes as RFC 4180 has them, within
 * a line. */
enum rc csv_next(struct csv *c, struct error *e) SPW_MUST_USE;
enum rc csv_rewind(struct csv *c, struct error *e) SPW_MUST_USE; /* to the first row */
/* The column of this name (any case), or -1. */
int csv_find(const struct csv *c, const char *name);
/* The same, or an error that lists what there is. */
enum rc csv_need(const struct csv *c, const char *name, int *column, struct error *e) SPW_MUST_USE;
/* Fields as numbers. Blanks around them are fine; an empty field is an error. */
enum rc csv_int(const struct csv *c, int column, int64_t lo, int64_t hi, int64_t *v, struct error *e) SPW_MUST_USE;
enum rc csv_double(const struct csv *c, int column, double lo, double hi, double *v, struct error *e) SPW_MUST_USE;

#endif
