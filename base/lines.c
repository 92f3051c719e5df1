#include "base/lines.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/alloc.h"

#define GZ_BUFFER_BYTES (256u << 10)

enum rc(lines_error)(const struct lines *l, struct error *e, enum rc code, const char *format, ...) /* see error.c */
{
    char text[384];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(e, code, "%s:%lld: %s", l->path, (long long)l->line, text);
}

enum rc lines_open(struct lines *l, const char *path, struct error *e)
{
    struct stat st;

    *l = (struct lines){0};
    if (stat(path, &st) != 0)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return error_set(e, RC_INVALID, "%s: is a folder; a file is wanted", path);
    l->file = gzopen(path, "rb");
    if (!l->file)
        return error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    gzbuffer(l->file, GZ_BUFFER_BYTES);
    l->path = spw_strdup(path);
    l->buf = spw_malloc(LINES_BYTES_MAX + 1);
    l->bytes = st.st_size;
    return RC_OK;
}

void lines_close(struct lines *l)
{
    if (l->file)
        gzclose(l->file);
    free(l->path);
    free(l->buf);
    *l = (struct lines){0};
}

enum rc lines_rewind(struct lines *l, struct error *e)
{
    if (gzrewind(l->file) != 0)
        return error_set(e, RC_IO, "%s: can't be read a second time; a plain file is wanted, no pipe", l->path);
    l->at = l->end = 0;
    l->line = 0;
    l->eof = false;
    return RC_OK;
}

double lines_done(const struct lines *l)
{
    z_off_t at = gzoffset(l->file);
    return l->bytes > 0 && at > 0 ? fmin(1, (double)at / (double)l->bytes) : 0;
}

/* What is left goes to the front, and more behind it. */
static enum rc fill(struct lines *l, struct error *e)
{
    memmove(l->buf, l->buf + l->at, l->end - l->at);
    l->end -= l->at;
    l->at = 0;
    int got = gzread(l->file, l->buf + l->end, (unsigned)(LINES_BYTES_MAX - l->end));
    int code = Z_OK;
    const char *why = gzerror(l->file, &code);
    if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) { /* a gzip file that was cut off says so at its end */
        l->line++;
        return lines_error(l, e, RC_IO, "can't be read on: %s", code == Z_ERRNO ? strerror(errno) : why);
    }
    l->end += (size_t)got;
    l->eof = got == 0;
    return RC_OK;
}

static enum rc next_line(struct lines *l, char **text, size_t *n, struct error *e)
{
    size_t looked = 0;

    for (;;) {
        char *start = l->buf + l->at;
        size_t have = l->end - l->at;
        char *end = memchr(start + looked, '\n', have - looked);
        if (!end && !l->eof) {
            looked = have;
            if (have == LINES_BYTES_MAX) {
                l->line++;
                lines_error(l, e, RC_INVALID, "the line is longer than %zu bytes", LINES_BYTES_MAX);
                return RC_INVALID;
            }
            enum rc rc = fill(l, e);
            if (rc != RC_OK)
                return rc;
            continue;
        }
        if (!end && have == 0)
            return RC_NOT_FOUND;
        if (!end)
            end = start + have;
        l->line++;
        l->at = end < l->buf + l->end ? (size_t)(end - l->buf) + 1 : l->end;
        *text = start;
        *n = (size_t)(end - start);
        return RC_OK;
    }
}

enum rc lines_next(struct lines *l, char **text, size_t *n, struct error *e)
{
    enum rc rc;

    do {
        rc = next_line(l, text, n, e);
        if (rc != RC_OK)
            return rc;
        if (*n && (*text)[*n - 1] == '\r')
            --*n;
        if (memchr(*text, '\0', *n))
            return lines_error(l, e, RC_INVALID, "holds a NUL byte; a text file is wanted");
        (*text)[*n] = '\0';
        if (l->line == 1 && *n >= 3 && memcmp(*text, "\xef\xbb\xbf", 3) == 0) {
            *text += 3;
            *n -= 3;
        }
    } while (*n == 0);
    return RC_OK;
}

/* --- CSV -------------------------------------------------------------------------------------------------------- */

/* One field from *at, in place; *at is then behind its comma, or NULL behind the last. False: quotes that do not end. */
static bool cut_field(char **at, char **field)
{
    char *from = *at, *to;

    if (*from != '"') {
        *field = from;
        char *comma = strchr(from, ',');
        if (comma)
            *comma = '\0';
        *at = comma ? comma + 1 : NULL;
        return true;
    }
    *field = to = ++from;
    for (;; from++) {
        if (*from == '\0')
            return false;
        if (*from == '"' && *++from != '"')
            break;
        *to++ = *from;
    }
    if (*from != '\0' && *from != ',')
        return false;
    *at = *from ? from + 1 : NULL;
    *to = '\0';
    return true;
}

static enum rc cut_row(const struct lines *l, char *text, char **fields, int *n, struct error *e)
{
    char *at = text;

    for (*n = 0; at; ++*n) {
        if (*n == CSV_FIELDS_MAX)
            return lines_error(l, e, RC_INVALID, "has more than %d fields", CSV_FIELDS_MAX);
        if (!cut_field(&at, &fields[*n]))
            return lines_error(l, e, RC_INVALID, "field %d: the quotes are not closed, or something follows them",
                               *n + 1);
    }
    return RC_OK;
}

static enum rc read_head(struct csv *c, struct error *e)
{
    char *text, *fields[CSV_FIELDS_MAX];
    size_t n;
    enum rc rc = lines_next(&c->lines, &text, &n, e);

    if (rc == RC_NOT_FOUND)
        return error_set(e, RC_INVALID, "%s: is empty; a head line with the columns' names is wanted", c->lines.path);
    if (rc != RC_OK)
        return rc;
    free(c->head);
    c->head = spw_strdup(text);
    rc = cut_row(&c->lines, c->head, fields, &c->n_names, e);
    for (int i = 0; rc == RC_OK && i < c->n_names; i++)
        c->names[i] = fields[i];
    return rc;
}

enum rc csv_open(struct csv *c, const char *path, struct error *e)
{
    *c = (struct csv){0};
    enum rc rc = lines_open(&c->lines, path, e);

    if (rc != RC_OK)
        return rc;
    rc = read_head(c, e);
    if (rc != RC_OK)
        csv_close(c);
    return rc;
}

void csv_close(struct csv *c)
{
    lines_close(&c->lines);
    free(c->head);
    c->head = NULL;
}

enum rc csv_rewind(struct csv *c, struct error *e)
{
    enum rc rc = lines_rewind(&c->lines, e);
    return rc == RC_OK ? read_head(c, e) : rc;
}

enum rc csv_next(struct csv *c, struct error *e)
{
    char *text;
    size_t n;
    enum rc rc = lines_next(&c->lines, &text, &n, e);

    if (rc == RC_OK)
        rc = cut_row(&c->lines, text, c->fields, &c->n_fields, e);
    if (rc == RC_OK && c->n_fields != c->n_names)
        return lines_error(&c->lines, e, RC_INVALID, "has %d fields, the head line has %d", c->n_fields, c->n_names);
    return rc;
}

int csv_find(const struct csv *c, const char *name)
{
    for (int i = 0; i < c->n_names; i++)
        if (strcasecmp(c->names[i], name) == 0)
            return i;
    return -1;
}

enum rc csv_need(const struct csv *c, const char *name, int *column, struct error *e)
{
    char there[256] = "";
    size_t n = 0;

    *column = csv_find(c, name);
    if (*column >= 0)
        return RC_OK;
    for (int i = 0; i < c->n_names && n + 1 < sizeof there; i++)
        n += (size_t)snprintf(there + n, sizeof there - n, "%s%s", i ? ", " : "", c->names[i]);
    return lines_error(&c->lines, e, RC_INVALID, "there is no column %s; there are: %s", name, there);
}

enum rc csv_double(const struct csv *c, int column, double lo, double hi, double *v, struct error *e)
{
    const char *text = c->fields[column];
    char *end;

    errno = 0;
    double d = strtod(text, &end);
    while (*end == ' ')
        end++;
    if (end == text || *end || !isfinite(d) || strpbrk(text, "xX"))
        return lines_error(&c->lines, e, RC_INVALID, "%s: \"%.40s\" is not a number", c->names[column], text);
    if (d < lo || d > hi)
        return lines_error(&c->lines, e, RC_INVALID, "%s: %.40s is out of bounds; %.10g to %.10g is allowed",
                           c->names[column], text, lo, hi);
    *v = d;
    return RC_OK;
}

enum rc csv_int(const struct csv *c, int column, int64_t lo, int64_t hi, int64_t *v, struct error *e)
{
    const char *text = c->fields[column];
    char *end;

    while (*text == ' ')
        text++;
    errno = 0;
    long long d = strtoll(text, &end, 10);
    while (*end == ' ')
        end++;
    if (end == text || *end)
        return lines_error(&c->lines, e, RC_INVALID, "%s: \"%.40s\" is not a whole number", c->names[column],
                           c->fields[column]);
    if (errno == ERANGE || d < lo || d > hi)
        return lines_error(&c->lines, e, RC_INVALID, "%s: %.40s is out of bounds; %lld to %lld is allowed",
                           c->names[column], text, (long long)lo, (long long)hi);
    *v = d;
    return RC_OK;
}
