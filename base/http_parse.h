/* Strict, incremental HTTP/1.1 message parsing (RFC 9112), without I/O. One parser per message direction and
 * connection; the server and the client below feed it from their buffers.
 *
 * What is refused, always: bare LF, NUL or control bytes in the head, obsolete folding, space before the colon, names
 * that are no tokens, Content-Length that is not plain digits or is repeated, Content-Length beside Transfer-Encoding,
 * any Transfer-Encoding but exactly "chunked", more than one or no Host, more than one Authorization, bodies on
 * HTTP/1.0 with TE, chunk sizes over 16 hex digits or with signs, trailers (refused unless empty), heads over the
 * limits. Refusing closes the connection: nothing after a bad byte is believed. */
#ifndef BASE_HTTP_PARSE_H
#define BASE_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct http_limits {
    size_t head_bytes_max;   /* start line and headers; default 32 KiB */
    int headers_max;         /* default 100 */
    uint64_t body_bytes_max; /* default 32 MiB */
};                           /* 0: the default, but a response's body is not bounded */
extern const struct http_limits http_limits_default;

struct http_header {
    const char *name;  /* NUL-terminated, as received; compare with strcasecmp */
    const char *value; /* NUL-terminated, outer blanks trimmed */
};

/* A parsed head. Strings live in the parser's own buffer until http_parser_reset(). */
struct http_head {
    char method[16];    /* requests */
    const char *target; /* requests: origin-form ("/v1/models?x=1"), or "*" */
    int status;         /* responses */
    int minor;          /* HTTP/1.minor */
    const struct http_header *headers;
    int n_headers;
    bool keep_alive; /* what the message asks for */
    bool expect_continue;
    bool chunked;
    int64_t content_length; /* -1: none given */
};
/* First header of that name (case-insensitive), or NULL. */
const char *http_head_get(const struct http_head *h, const char *name);

enum http_kind { HTTP_REQUEST, HTTP_RESPONSE };
enum http_event {
    HTTP_NEED_MORE, /* all input consumed, message not complete */
    HTTP_HEAD,      /* head is ready: see http_parser_head() */
    HTTP_BODY,      /* *data, *data_len: the next body bytes, borrowed from the input */
    HTTP_END,       /* message complete; http_parser_reset() for the next */
    HTTP_ERROR,     /* refused: see http_parser_error(); the connection must be closed */
};

struct http_parser;
struct http_parser *http_parser_new(enum http_kind kind, const struct http_limits *limits);
void http_parser_free(struct http_parser *p);
void http_parser_reset(struct http_parser *p);
/* A response to HEAD has no body whatever its headers say: call before its head is fed. */
void http_parser_expect_no_body(struct http_parser *p);
/* Take up to n bytes; *used says how many were consumed. Call again with the rest until HTTP_NEED_MORE. */
enum http_event http_parser_feed(struct http_parser *p, const char *in, size_t n, size_t *used, const char **data,
                                 size_t *data_len);
/* The peer closed: HTTP_END for a response that is delimited by the close, HTTP_ERROR inside a message,
 * HTTP_NEED_MORE between messages. */
enum http_event http_parser_eof(struct http_parser *p);
/* Bytes of memory held for a large head; 0 while it fits the buffer that is kept anyway. */
size_t http_parser_held(const struct http_parser *p);
const struct http_head *http_parser_head(const struct http_parser *p);
/* Status to answer with (400, 413, 414, 417, 431, 501, 505) and a text without input bytes in it. */
int http_parser_error(const struct http_parser *p, const char **text);

#endif
