/* JSON on cJSON: bounded parsing of input from outside, typed access that says what is wrong, and writing.
 *
 * Parsing refuses: bytes that are not UTF-8, nesting deeper than `depth_max`, too many values, duplicate keys in
 * objects (smuggling), trailing data, unpaired surrogates, control bytes as blanks, and numbers like 01, 1. and -.5.
 * cJSON is wrapped, not hidden: callers walk the tree with cJSON's own calls. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/error.h"

#define JSON_DEPTH_MAX 64
/* Values in one text: a prompt of 131,072 token ids fits twice; the tree stays below 32 MiB. */
#define JSON_VALUES_MAX 300000

/* A text, parsed for a short life: the tree is cJSON's to walk, but it and its strings stand in a few blocks of memory
 * that go with the document. Nothing of it may be changed or cJSON_Delete()d. For hot paths; also says where in the
 * text each value stands. */
struct json_block;
#define JSON_DOC_NODES_BYTES 2576 /* 32 nodes */
#define JSON_DOC_TEXT_BYTES  512
struct json_doc {              /* may not be moved */
    cJSON *root;               /* borrowed from the document */
    struct json_block *blocks; /* nodes, newest first; owned, but for the one inside */
    char *strings;             /* decoded; owned, unless it is the one inside */
    /* What suffices for small texts, so that they need no other memory. */
    _Alignas(16) unsigned char first_nodes[JSON_DOC_NODES_BYTES];
    char first_text[JSON_DOC_TEXT_BYTES];
};
/* On failure nothing is held. */
enum rc json_doc_parse(struct json_doc *d, const char *text, size_t n, int depth_max, struct error *e) SPW_MUST_USE;
void json_doc_fini(struct json_doc *d); /* {0} is fine */
/* The value's bytes in the text that was parsed, without blanks around them. item: of a document. */
const char *json_doc_text(const cJSON *item, size_t *n);
/* A member's name as it is written, inside its quotes. */
const char *json_doc_name(const cJSON *object, const cJSON *member, size_t *n);

/* The same as a tree of its own. The caller owns *root: cJSON_Delete(). */
enum rc json_parse(const char *text, size_t n, int depth_max, cJSON **root, struct error *e) SPW_MUST_USE;

/* The member of this name, as written, or NULL: also of NULL and of what is no object. As cJSON's own call, without a
 * function call for each member that it is not. */
const cJSON *json_find(const cJSON *object, const char *key);

/* Typed members of an object. `found` may be NULL. A missing key or null leaves *v alone and is RC_OK; a wrong type or
 * a value outside lo..hi is RC_INVALID with a text naming the key. */
enum rc json_get_int(const cJSON *obj, const char *key, int64_t lo, int64_t hi, int64_t *v, bool *found,
                     struct error *e) SPW_MUST_USE;
enum rc json_get_double(const cJSON *obj, const char *key, double lo, double hi, double *v, bool *found,
                        struct error *e) SPW_MUST_USE;
enum rc json_get_bool(const cJSON *obj, const char *key, bool *v, bool *found, struct error *e) SPW_MUST_USE;
/* *v is borrowed from the tree. */
enum rc json_get_string(const cJSON *obj, const char *key, const char **v, bool *found, struct error *e) SPW_MUST_USE;

/* Append s as a JSON string literal with quotes. Invalid UTF-8 becomes U+FFFD. For code that writes JSON by hand on
 * hot paths. */
enum rc json_append_string(struct strbuf *b, const char *s, size_t n);

/* How many bytes from s on stand for themselves in a string literal and are ASCII: no quote, backslash or control byte.
 * For who walks over literals that may be large. */
size_t json_plain_bytes(const char *s, const char *end);

/* Length of the valid UTF-8 prefix of s; == n when all of it is valid. An incomplete sequence at the end is counted
 * out, and *incomplete (may be NULL) says whether more bytes could complete it. */
size_t utf8_valid_prefix(const char *s, size_t n, bool *incomplete);

#endif
