/* Verbs that are filters: one JSON document on stdin, bytes on stdout. */
#ifndef ENGINE_CLI_STDIN_JSON_H
#define ENGINE_CLI_STDIN_JSON_H

#include "base/json.h"

#define STDIN_BYTES_MAX (256 << 20)

/* Read all of stdin. RC_FULL past STDIN_BYTES_MAX; RC_INVALID as json_parse(). The caller deletes *root. */
enum rc stdin_read_json(cJSON **root, struct error *e) SPW_MUST_USE;
/* Write b to stdout and flush. */
enum rc stdout_write(const struct strbuf *b, struct error *e) SPW_MUST_USE;

#endif
