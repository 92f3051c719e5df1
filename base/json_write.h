/* JSON text written piece by piece into a strbuf: exact integers, commas and escapes in one place. The first failure
 * (the buffer's bound) sticks, so that only json_write_end() needs to be looked at.
 *
 *     struct json_writer w = json_write_begin(&out);
 *     json_open(&w, NULL, '{');
 *     json_string(&w, "name", name);
 *     json_close(&w, '}');
 *     return json_write_end(&w);
 */
#ifndef BASE_JSON_WRITE_H
#define BASE_JSON_WRITE_H

#include <stdint.h>

#include "base/alloc.h"

struct json_writer {
    struct strbuf *out;
    enum rc rc;
};

struct json_writer json_write_begin(struct strbuf *out);
enum rc json_write_end(const struct json_writer *w) SPW_MUST_USE;

/* key: NULL inside a list. */
void json_open(struct json_writer *w, const char *key, char bracket);    /* '{' or '[' */
void json_close(struct json_writer *w, char bracket);                    /* '}' or ']' */
void json_string(struct json_writer *w, const char *key, const char *s); /* NULL is written as null */
void json_int(struct json_writer *w, const char *key, int64_t v);
void json_uint(struct json_writer *w, const char *key, uint64_t v);
void json_bool(struct json_writer *w, const char *key, bool v);
void json_null(struct json_writer *w, const char *key);
void json_raw(struct json_writer *w, const char *key, const char *json); /* already JSON */

#endif
