#include "scheduler/record/record_members.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_BYTES 40
#define EXACT_INT    9007199254740992.0 /* 2^53: whole doubles below are as exact without a fraction */

static const void *at(const struct member *row, const void *base)
{
    return (const char *)base + row->offset;
}

/* Of integers and words. */
static int64_t whole(const struct member *row, const void *base)
{
    const void *p = at(row, base);
    switch (row->type) {
    case MEMBER_BOOL: return *(const bool *)p;
    case MEMBER_I16: return *(const int16_t *)p;
    case MEMBER_I32: return *(const int32_t *)p;
    case MEMBER_U32: return *(const uint32_t *)p;
    case MEMBER_I64: return *(const int64_t *)p;
    case MEMBER_WORD: return *(const int *)p; /* enums are ints */
    case MEMBER_DOUBLE:
    case MEMBER_TEXT: break;
    }
    return 0;
}

static void print_double(double v, char text[NUMBER_BYTES])
{
    if (v == trunc(v) && fabs(v) < EXACT_INT && !(v == 0 && signbit(v)))
        snprintf(text, NUMBER_BYTES, "%" PRId64, (int64_t)v);
    else
        snprintf(text, NUMBER_BYTES, "%.17g", v);
}

static void write_double(struct json_writer *w, const char *name, double v)
{
    char text[NUMBER_BYTES];
    print_double(v, text);
    if (isfinite(v))
        json_raw(w, name, text);
    else
        json_string(w, name, text);
}

/* All bits are 0, so that -0 is written. */
static bool is_nothing(double v)
{
    return v == 0 && !signbit(v);
}

void members_write(struct json_writer *w, const struct members *f, const void *from)
{
    for (int i = 0; i < f->n; i++) {
        const struct member *row = &f->rows[i];
        const void *p = at(row, from);
        if (row->type == MEMBER_DOUBLE) {
            if (!is_nothing(*(const double *)p))
                write_double(w, row->name, *(const double *)p);
        } else if (row->type == MEMBER_TEXT) {
            if (*(const char *)p)
                json_string(w, row->name, p);
        } else if (whole(row, from)) {
            if (row->type == MEMBER_BOOL)
                json_bool(w, row->name, true);
            else if (row->type == MEMBER_WORD)
                json_string(w, row->name, row->word((int)whole(row, from)));
            else
                json_int(w, row->name, whole(row, from));
        }
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static enum rc wrong(const struct member *row, struct error *e, const char *right)
{
    return error_set(e, RC_INVALID, "\"%s\": %s is right", row->name, right);
}

static enum rc read_double(const cJSON *item, const struct member *row, double *to, struct error *e)
{
    size_t n;
    if (cJSON_IsString(item) && (strcmp(item->valuestring, "inf") == 0 || strcmp(item->valuestring, "-inf") == 0 ||
                                 strcmp(item->valuestring, "nan") == 0 || strcmp(item->valuestring, "-nan") == 0))
        *to = strtod(item->valuestring, NULL);
    else if (cJSON_IsNumber(item))
        *to = strtod(json_doc_text(item, &n), NULL);
    else
        return wrong(row, e, "a number");
    return RC_OK;
}

static enum rc read_word(const cJSON *item, const struct member *row, int *to, struct error *e)
{
    for (int i = 0; cJSON_IsString(item) && row->word(i); i++) {
        if (strcmp(row->word(i), item->valuestring) != 0)
            continue;
        *to = i;
        return RC_OK;
    }
    return error_set(e, RC_INVALID, "\"%s\": one of its words is right, such as \"%s\"", row->name, row->word(0));
}

static void limits(const struct member *row, int64_t *lo, int64_t *hi)
{
    *lo = row->type == MEMBER_I16 ? INT16_MIN : row->type == MEMBER_I32 ? INT32_MIN : INT64_MIN;
    *hi = row->type == MEMBER_I16   ? INT16_MAX
          : row->type == MEMBER_I32 ? INT32_MAX
          : row->type == MEMBER_U32 ? UINT32_MAX
                                    : INT64_MAX;
    if (row->type == MEMBER_U32)
        *lo = 0;
    if (row->lo == row->hi)
        return;
    *lo = row->lo;
    *hi = row->hi;
}

static enum rc read_whole(const cJSON *item, const struct member *row, void *to, struct error *e)
{
    int64_t lo, hi;
    size_t n;
    char *end = NULL;
    limits(row, &lo, &hi);
    const char *text = cJSON_IsNumber(item) ? json_doc_text(item, &n) : NULL;
    errno = 0;
    const long long v = text ? strtoll(text, &end, 10) : 0;
    if (!text || end != text + n || errno || v < lo || v > hi)
        return error_set(e, RC_INVALID, "\"%s\": a whole number of %" PRId64 " to %" PRId64 " is right", row->name, lo,
                         hi);
    switch (row->type) {
    case MEMBER_I16: *(int16_t *)to = (int16_t)v; break;
    case MEMBER_I32: *(int32_t *)to = (int32_t)v; break;
    case MEMBER_U32: *(uint32_t *)to = (uint32_t)v; break;
    case MEMBER_I64: *(int64_t *)to = v; break;
    case MEMBER_BOOL:
    case MEMBER_DOUBLE:
    case MEMBER_WORD:
    case MEMBER_TEXT: break;
    }
    return RC_OK;
}

static enum rc read_value(const cJSON *item, const struct member *row, void *to, struct error *e)
{
    switch (row->type) {
    case MEMBER_BOOL:
        *(bool *)to = cJSON_IsTrue(item);
        return cJSON_IsBool(item) ? RC_OK : wrong(row, e, "true or false");
    case MEMBER_DOUBLE: return read_double(item, row, to, e);
    case MEMBER_WORD: return read_word(item, row, to, e);
    case MEMBER_TEXT:
        if (!cJSON_IsString(item) || strlen(item->valuestring) >= row->bytes)
            return error_set(e, RC_INVALID, "\"%s\": a text of less than %d bytes is right", row->name, row->bytes);
        memcpy(to, item->valuestring, strlen(item->valuestring) + 1);
        return RC_OK;
    case MEMBER_I16:
    case MEMBER_I32:
    case MEMBER_U32:
    case MEMBER_I64: return read_whole(item, row, to, e);
    }
    return RC_INVALID;
}

enum rc members_read_one(const cJSON *item, const struct members *f, int *from, void *to, struct error *e)
{
    for (int k = 0; k < f->n; k++) { /* mostly they come in the order in which they were written */
        const int i = (*from + k) % f->n;
        if (strcmp(f->rows[i].name, item->string) != 0)
            continue;
        *from = i + 1;
        return read_value(item, &f->rows[i], (char *)to + f->rows[i].offset, e);
    }
    return RC_NOT_FOUND;
}

enum rc members_read(const cJSON *object, const struct members *f, void *to, size_t bytes, struct error *e)
{
    const cJSON *item;
    int from = 0;
    memset(to, 0, bytes);
    if (!cJSON_IsObject(object))
        return error_set(e, RC_INVALID, "an object is missing");
    cJSON_ArrayForEach(item, object)
    {
        const enum rc rc = members_read_one(item, f, &from, to, e);
        if (rc == RC_NOT_FOUND)
            return error_set(e, RC_INVALID, "\"%.40s\" is no member that is known here", item->string);
        if (rc != RC_OK)
            return rc;
    }
    return RC_OK;
}

/* ---- comparing ---------------------------------------------------------------------------------------------------- */

const struct member *members_differ(const struct members *f, const void *a, const void *b)
{
    for (int i = 0; i < f->n; i++) {
        const struct member *row = &f->rows[i];
        const bool same = row->type == MEMBER_DOUBLE ? memcmp(at(row, a), at(row, b), sizeof(double)) == 0
                          : row->type == MEMBER_TEXT ? strcmp(at(row, a), at(row, b)) == 0
                                                     : whole(row, a) == whole(row, b);
        if (!same)
            return row;
    }
    return NULL;
}

void member_print(const struct member *row, const void *from, char *text, size_t size)
{
    char number[NUMBER_BYTES];
    if (row->type == MEMBER_DOUBLE)
        print_double(*(const double *)at(row, from), number);
    if (row->type == MEMBER_BOOL)
        snprintf(text, size, "%s", whole(row, from) ? "true" : "false");
    else if (row->type == MEMBER_DOUBLE)
        snprintf(text, size, "%s", number);
    else if (row->type == MEMBER_TEXT)
        snprintf(text, size, "\"%s\"", (const char *)at(row, from));
    else if (row->type == MEMBER_WORD)
        snprintf(text, size, "%s", row->word((int)whole(row, from)));
    else
        snprintf(text, size, "%" PRId64, whole(row, from));
}
