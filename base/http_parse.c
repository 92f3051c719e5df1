/* The HTTP/1.1 parser: heads line by line into one growing buffer, bodies borrowed from the input.
 *
 * Source: RFC 9112 (messages) and RFC 9110 (fields), read strictly: wherever two readers of one message could disagree
 * about its length, the message is refused (request smuggling). Every decision depends on the bytes alone, never on
 * where the reads cut them; the fuzz target holds us to that.
 *
 *   START --start line--> HEADERS --blank line--> [emit HTTP_HEAD] --> BODY_LENGTH | BODY_CLOSE | CHUNK_SIZE | DONE
 *     ^                      |1xx of a response: dropped, back to START
 *   CHUNK_SIZE --line--> CHUNK_DATA --all--> CHUNK_CRLF --> CHUNK_SIZE
 *       |size 0 --> LAST_CRLF --> DONE [emit HTTP_END until http_parser_reset()]
 *   any --bad byte or limit--> FAILED (final)
 */
#include "base/http_parse.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"

const struct http_limits http_limits_default = {
    .head_bytes_max = 32 * 1024, .headers_max = 100, .body_bytes_max = 32 * 1024 * 1024};

#define CHUNK_LINE_MAX      256         /* size and extensions of one chunk */
#define CHUNK_EXTENSION_MAX (16 * 1024) /* of a whole message: one-byte chunks with long extensions are an attack */
#define INTERIM_MAX         8           /* 1xx heads before the real one */
#define HEAD_KEEP_BYTES     2048        /* a buffer up to this size is kept for the next message */
#define HEADERS_KEEP        32
#define BODY_UNLIMITED      UINT64_MAX

enum state {
    ST_START,
    ST_HEADERS,
    ST_BODY_LENGTH,
    ST_BODY_CLOSE,
    ST_CHUNK_SIZE,
    ST_CHUNK_DATA,
    ST_CHUNK_CRLF,
    ST_LAST_CRLF,
    ST_DONE,
    ST_FAILED,
};

struct http_parser {
    enum http_kind kind;
    enum state state;
    struct http_limits limits;
    bool no_body;       /* the answer to HEAD */
    bool skipped_blank; /* one empty line before a request is forgiven (RFC 9112 2.2) */
    bool begun;         /* a byte of this message was seen */
    int interim;
    int status;         /* of FAILED */
    const char *reason; /* of FAILED */

    char *buf; /* owned: the head's bytes; lines end in NUL once they are parsed */
    size_t len, cap, line;
    struct http_header *headers; /* owned; names and values are offsets into buf until the head is complete */
    int n_headers, cap_headers;

    size_t target_at; /* offset of the target */
    uint64_t left;    /* of a body by length, or of a chunk */
    uint64_t body;    /* bytes so far, chunked */
    size_t chunk_line, extensions;
    bool have_host, have_te, have_cl, have_credential, connection_close, connection_keep, cr;
    int chunk_digits;
    bool chunk_extension;
    struct http_head head;
};

/* tchar of RFC 9110 5.6.2. */
static bool is_token_char(unsigned char c)
{
    static const bool table[256] = {
        ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,
        ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0'] = 1,  ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1,
        ['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1, ['A'] = 1,  ['B'] = 1, ['C'] = 1, ['D'] = 1, ['E'] = 1,
        ['F'] = 1, ['G'] = 1, ['H'] = 1, ['I'] = 1, ['J'] = 1, ['K'] = 1,  ['L'] = 1, ['M'] = 1, ['N'] = 1, ['O'] = 1,
        ['P'] = 1, ['Q'] = 1, ['R'] = 1, ['S'] = 1, ['T'] = 1, ['U'] = 1,  ['V'] = 1, ['W'] = 1, ['X'] = 1, ['Y'] = 1,
        ['Z'] = 1, ['a'] = 1, ['b'] = 1, ['c'] = 1, ['d'] = 1, ['e'] = 1,  ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1,
        ['j'] = 1, ['k'] = 1, ['l'] = 1, ['m'] = 1, ['n'] = 1, ['o'] = 1,  ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1,
        ['t'] = 1, ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1,  ['z'] = 1};
    return table[c];
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* False, so that callers can `return fail(...)`. */
static bool fail(struct http_parser *p, int status, const char *reason)
{
    p->state = ST_FAILED;
    p->status = status;
    p->reason = reason;
    return false;
}

struct http_parser *http_parser_new(enum http_kind kind, const struct http_limits *limits)
{
    struct http_parser *p = spw_calloc(1, sizeof(*p));
    p->kind = kind;
    p->limits = limits ? *limits : (struct http_limits){0};
    if (!p->limits.head_bytes_max)
        p->limits.head_bytes_max = http_limits_default.head_bytes_max;
    if (p->limits.headers_max <= 0)
        p->limits.headers_max = http_limits_default.headers_max;
    if (!p->limits.body_bytes_max)
        p->limits.body_bytes_max = kind == HTTP_REQUEST ? http_limits_default.body_bytes_max : BODY_UNLIMITED;
    p->head.content_length = -1;
    return p;
}

void http_parser_free(struct http_parser *p)
{
    if (!p)
        return;
    free(p->buf);
    free(p->headers);
    free(p);
}

void http_parser_reset(struct http_parser *p)
{
    /* One big head must not stay allocated for the life of an idle connection. */
    if (p->cap > HEAD_KEEP_BYTES) {
        free(p->buf);
        p->buf = NULL;
        p->cap = 0;
    }
    if (p->cap_headers > HEADERS_KEEP) {
        free(p->headers);
        p->headers = NULL;
        p->cap_headers = 0;
    }
    struct http_parser fresh = {.kind = p->kind,
                                .limits = p->limits,
                                .buf = p->buf,
                                .cap = p->cap,
                                .headers = p->headers,
                                .cap_headers = p->cap_headers,
                                .head = {.content_length = -1}};
    *p = fresh;
}

void http_parser_expect_no_body(struct http_parser *p)
{
    p->no_body = true;
}

size_t http_parser_held(const struct http_parser *p)
{
    return p->cap > HEAD_KEEP_BYTES ? p->cap : 0;
}

const struct http_head *http_parser_head(const struct http_parser *p)
{
    return &p->head;
}

int http_parser_error(const struct http_parser *p, const char **text)
{
    if (text)
        *text = p->reason;
    return p->status;
}

const char *http_head_get(const struct http_head *h, const char *name)
{
    for (int i = 0; i < h->n_headers; i++) {
        const char *other = h->headers[i].name;
        if ((*other | 0x20) == (*name | 0x20) && strcasecmp(other, name) == 0) /* most differ in their first letter */
            return h->headers[i].value;
    }
    return NULL;
}

/* The start line of a request: method SP target SP HTTP/1.x, `line` ends in NUL. */
static bool parse_request_line(struct http_parser *p, char *line, size_t n)
{
    char *space = memchr(line, ' ', n);
    if (!space || space == line)
        return fail(p, 400, "malformed request line");
    size_t n_method = (size_t)(space - line);
    for (size_t i = 0; i < n_method; i++)
        if (!is_token_char((unsigned char)line[i]))
            return fail(p, 400, "malformed method");
    if (n_method >= sizeof(p->head.method))
        return fail(p, 501, "method not supported");

    char *target = space + 1, *end = line + n;
    char *space2 = memchr(target, ' ', (size_t)(end - target));
    if (!space2 || space2 == target)
        return fail(p, 400, "malformed request line");
    for (char *c = target; c < space2; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f || *c == '#')
            return fail(p, 400, "malformed request target");
    const char *version = space2 + 1;
    if ((size_t)(end - version) != 8 || memcmp(version, "HTTP/", 5) != 0 || !is_digit(version[5]) ||
        version[6] != '.' || !is_digit(version[7]))
        return fail(p, 400, "malformed HTTP version");
    if (version[5] != '1' || version[7] > '1')
        return fail(p, 505, "HTTP version not supported");
    p->head.minor = version[7] - '0';
    memcpy(p->head.method, line, n_method);
    p->head.method[n_method] = '\0';
    *space2 = '\0';
    p->target_at = (size_t)(target - p->buf);
    return true;
}

/* HTTP/1.x SP 3DIGIT [SP reason]. The space before an absent reason is forgiven, nothing else. */
static bool parse_status_line(struct http_parser *p, const char *line, size_t n)
{
    if (n < 12 || memcmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') || line[8] != ' ' ||
        (n > 12 && line[12] != ' '))
        return fail(p, 400, "malformed status line");
    if (!is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11]) || line[9] < '1' || line[9] > '5')
        return fail(p, 400, "malformed status code");
    for (size_t i = 12; i < n; i++)
        if (((unsigned char)line[i] < 0x20 && line[i] != '\t') || line[i] == 0x7f)
            return fail(p, 400, "control character in the status line");
    p->head.minor = line[7] - '0';
    p->head.status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    return true;
}

static bool take_content_length(struct http_parser *p, const char *v)
{
    if (p->have_cl)
        return fail(p, 400, "more than one Content-Length");
    p->have_cl = true;
    if (!*v)
        return fail(p, 400, "Content-Length is not a number");
    int64_t length = 0;
    for (; *v; v++) {
        if (!is_digit(*v))
            return fail(p, 400, "Content-Length is not a number");
        if (length > (INT64_MAX - 9) / 10)
            return fail(p, p->kind == HTTP_REQUEST ? 413 : 400, "Content-Length is too large");
        length = length * 10 + (*v - '0');
    }
    p->head.content_length = length;
    return true;
}

static bool take_transfer_encoding(struct http_parser *p, const char *v)
{
    if (p->have_te)
        return fail(p, 400, "more than one Transfer-Encoding");
    p->have_te = true;
    if (strcasecmp(v, "chunked") != 0)
        return fail(p, 501, "only Transfer-Encoding: chunked is supported");
    p->head.chunked = true;
    return true;
}

/* Host: reg-name or literal with an optional port; nothing that could smuggle a path or a second authority. */
static bool take_host(struct http_parser *p, const char *v)
{
    if (p->kind != HTTP_REQUEST)
        return true;
    if (p->have_host)
        return fail(p, 400, "more than one Host");
    p->have_host = true;
    for (; *v; v++)
        if ((unsigned char)*v <= 0x20 || (unsigned char)*v >= 0x7f || strchr("/\\?#@,\"<>{}|^`", *v))
            return fail(p, 400, "malformed Host");
    return true;
}

static void take_connection(struct http_parser *p, const char *v)
{
    while (*v) {
        v += strspn(v, " \t,");
        size_t n = strcspn(v, " \t,");
        if (n == 5 && strncasecmp(v, "close", 5) == 0)
            p->connection_close = true;
        else if (n == 10 && strncasecmp(v, "keep-alive", 10) == 0)
            p->connection_keep = true;
        v += n;
    }
}

static bool take_expect(struct http_parser *p, const char *v)
{
    if (p->kind != HTTP_REQUEST)
        return true;
    if (strcasecmp(v, "100-continue") != 0)
        return fail(p, 417, "only Expect: 100-continue is supported");
    p->head.expect_continue = true;
    return true;
}

/* Two credentials: whoever reads the other one of them lets somebody else in. */
static bool take_authorization(struct http_parser *p)
{
    if (p->kind == HTTP_REQUEST && p->have_credential)
        return fail(p, 400, "more than one Authorization");
    p->have_credential = true;
    return true;
}

/* The fields that steer framing, and the credential. The length keeps the common header to one comparison. */
static bool take_special(struct http_parser *p, const char *name, size_t n_name, const char *value)
{
    switch (n_name) {
    case 4: return strcasecmp(name, "Host") == 0 ? take_host(p, value) : true;
    case 6: return strcasecmp(name, "Expect") == 0 ? take_expect(p, value) : true;
    case 10:
        if (strcasecmp(name, "Connection") == 0)
            take_connection(p, value);
        return true;
    case 13: return strcasecmp(name, "Authorization") == 0 ? take_authorization(p) : true;
    case 14: return strcasecmp(name, "Content-Length") == 0 ? take_content_length(p, value) : true;
    case 17: return strcasecmp(name, "Transfer-Encoding") == 0 ? take_transfer_encoding(p, value) : true;
    default: return true;
    }
}

static bool parse_header_line(struct http_parser *p, char *line, size_t n)
{
    if (*line == ' ' || *line == '\t')
        return fail(p, 400, "folded header lines are not accepted");
    size_t n_name = 0;
    while (n_name < n && is_token_char((unsigned char)line[n_name]))
        n_name++;
    if (n_name == 0 || n_name == n || line[n_name] != ':')
        return fail(p, 400, "malformed header name");
    char *value = line + n_name + 1, *end = line + n;
    for (char *c = value; c < end; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return fail(p, 400, "control character in a header value");
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    line[n_name] = '\0';
    *end = '\0';

    if (p->n_headers >= p->limits.headers_max)
        return fail(p, 431, "too many headers");
    if (p->n_headers == p->cap_headers) {
        p->cap_headers = p->cap_headers ? p->cap_headers * 2 : 16;
        p->headers = spw_realloc(p->headers, (size_t)p->cap_headers * sizeof(*p->headers));
    }
    /* buf may still move: offsets now, pointers when the head is complete. */
    p->headers[p->n_headers++] =
        (struct http_header){.name = (const char *)(line - p->buf), .value = (const char *)(value - p->buf)};
    return take_special(p, line, n_name, value);
}

/* absolute-form (RFC 9112 3.2.2) is reduced to origin-form, and only when its authority is the Host's. */
static bool resolve_target(struct http_parser *p)
{
    char *t = p->buf + p->target_at;
    p->head.target = t;
    if (*t == '/')
        return true;
    if (strcmp(t, "*") == 0)
        return strcmp(p->head.method, "OPTIONS") == 0 ? true : fail(p, 400, "malformed request target");
    size_t n_scheme = strncasecmp(t, "http://", 7) == 0 ? 7 : strncasecmp(t, "https://", 8) == 0 ? 8 : 0;
    const char *host = http_head_get(&p->head, "Host");
    if (!n_scheme || !host)
        return fail(p, 400, "malformed request target");
    char *authority = t + n_scheme;
    size_t n = strcspn(authority, "/?");
    if (n == 0 || strlen(host) != n || strncasecmp(authority, host, n) != 0)
        return fail(p, 400, "request target and Host differ");
    if (authority[n] == '?') {
        authority[n - 1] = '/'; /* the byte before it is the authority's: ours to overwrite */
        n--;
    }
    p->head.target = authority[n] ? authority + n : "/";
    return true;
}

static bool response_has_no_body(const struct http_parser *p)
{
    return p->no_body || p->head.status == 204 || p->head.status == 304;
}

/* What only a request's head as a whole can be wrong in. */
static bool finish_request(struct http_parser *p)
{
    struct http_head *h = &p->head;
    if (!p->have_host && h->minor == 1)
        return fail(p, 400, "Host is missing");
    if (h->minor == 0) {
        h->expect_continue = false;
        if (h->content_length > 0 &&
            (strcmp(h->method, "GET") == 0 || strcmp(h->method, "HEAD") == 0 || strcmp(h->method, "DELETE") == 0))
            return fail(p, 400, "HTTP/1.0 request of this method with a body");
    }
    return resolve_target(p);
}

/* What comes after the head (RFC 9112 6.3). */
static bool begin_body(struct http_parser *p)
{
    struct http_head *h = &p->head;
    p->state = ST_DONE;
    if (p->kind == HTTP_RESPONSE && response_has_no_body(p))
        return true; /* whatever its headers promise */
    if (h->content_length > 0 && (uint64_t)h->content_length > p->limits.body_bytes_max)
        return fail(p, 413, "body is too large");
    if (h->chunked) {
        p->state = ST_CHUNK_SIZE;
    } else if (h->content_length > 0) {
        p->left = (uint64_t)h->content_length;
        p->state = ST_BODY_LENGTH;
    } else if (h->content_length < 0 && p->kind == HTTP_RESPONSE) {
        h->keep_alive = false;
        p->state = ST_BODY_CLOSE;
    }
    return true;
}

/* Framing, once all headers are known. */
static bool finish_head(struct http_parser *p)
{
    struct http_head *h = &p->head;
    for (int i = 0; i < p->n_headers; i++) {
        p->headers[i].name = p->buf + (size_t)p->headers[i].name;
        p->headers[i].value = p->buf + (size_t)p->headers[i].value;
    }
    h->headers = p->headers;
    h->n_headers = p->n_headers;
    h->keep_alive = !p->connection_close && (h->minor == 1 || p->connection_keep);
    if (p->have_te && p->have_cl)
        return fail(p, 400, "both Transfer-Encoding and Content-Length");
    if (p->have_te && h->minor == 0)
        return fail(p, 400, "Transfer-Encoding in HTTP/1.0");
    return (p->kind == HTTP_RESPONSE || finish_request(p)) && begin_body(p);
}

/* 1xx: forget it and read the real head. 101 would change the protocol, which nobody here asked for. */
static bool drop_interim(struct http_parser *p)
{
    if (p->head.status == 101)
        return fail(p, 400, "unexpected protocol switch");
    if (++p->interim > INTERIM_MAX)
        return fail(p, 400, "too many interim responses");
    if (p->have_te || p->have_cl)
        return fail(p, 400, "interim response with a body");
    int interim = p->interim;
    bool no_body = p->no_body;
    http_parser_reset(p);
    p->interim = interim;
    p->no_body = no_body;
    p->begun = true;
    return true;
}

/* One line, its CR LF still at the end. Returns true when the head is complete. */
static bool take_line(struct http_parser *p)
{
    char *line = p->buf + p->line;
    size_t n = p->len - p->line;
    if (n < 2 || line[n - 2] != '\r') {
        fail(p, 400, "line ends without CR");
        return false;
    }
    n -= 2;
    line[n] = '\0';
    size_t before = p->line;
    p->line = p->len;
    if (n == 0) {
        if (p->state == ST_HEADERS) {
            if (p->kind == HTTP_RESPONSE && p->head.status / 100 == 1)
                drop_interim(p);
            else
                return finish_head(p);
        } else if (p->kind == HTTP_REQUEST && !p->skipped_blank) {
            p->skipped_blank = true;
            p->len = p->line = before;
            p->begun = false; /* a trailing CR LF of the last request is no message */
        } else {
            fail(p, 400, "empty start line");
        }
        return false;
    }
    if (p->state == ST_START) {
        if (p->kind == HTTP_REQUEST ? parse_request_line(p, line, n) : parse_status_line(p, line, n))
            p->state = ST_HEADERS;
    } else {
        parse_header_line(p, line, n);
    }
    return false;
}

static void buf_append(struct http_parser *p, const char *in, size_t n)
{
    if (p->len + n > p->cap) {
        size_t cap = p->cap ? p->cap : 512;
        while (cap < p->len + n)
            cap *= 2;
        p->buf = spw_realloc(p->buf, cap);
        p->cap = cap;
    }
    memcpy(p->buf + p->len, in, n);
    p->len += n;
}

/* Heads. Returns true when one is complete. */
static bool feed_head(struct http_parser *p, const char *in, size_t n, size_t *used)
{
    while (*used < n && p->state <= ST_HEADERS) {
        p->begun = true;
        size_t room = p->limits.head_bytes_max - p->len;
        size_t avail = n - *used < room ? n - *used : room;
        const char *at = in + *used, *lf = memchr(at, '\n', avail);
        size_t take = lf ? (size_t)(lf - at) + 1 : avail;
        buf_append(p, at, take);
        *used += take;
        if (lf) {
            if (take_line(p))
                return true;
        }
        if (p->state <= ST_HEADERS && p->len == p->limits.head_bytes_max) {
            if (p->state == ST_START && p->kind == HTTP_REQUEST)
                fail(p, 414, "request line is too long");
            else
                fail(p, 431, "head is too large");
        }
    }
    return false;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static void begin_chunk_line(struct http_parser *p)
{
    p->state = ST_CHUNK_SIZE;
    p->left = 0;
    p->chunk_digits = 0;
    p->chunk_line = 0;
    p->chunk_extension = p->cr = false;
}

static bool chunk_size_known(struct http_parser *p)
{
    if (p->left == 0) {
        p->state = ST_LAST_CRLF;
        p->cr = false;
        return true;
    }
    if (p->left > INT64_MAX || p->left > p->limits.body_bytes_max - p->body)
        return fail(p, 413, "body is too large");
    p->body += p->left;
    p->state = ST_CHUNK_DATA;
    return true;
}

/* chunk-size [ext] CR LF, byte by byte: a handful of bytes per chunk. */
static bool chunk_size_byte(struct http_parser *p, char c)
{
    if (++p->chunk_line > CHUNK_LINE_MAX)
        return fail(p, 400, "chunk line is too long");
    if (p->cr)
        return c == '\n' ? chunk_size_known(p) : fail(p, 400, "malformed chunk line");
    if (c == '\r') {
        if (p->chunk_digits == 0)
            return fail(p, 400, "malformed chunk size");
        p->cr = true;
        return true;
    }
    if (p->chunk_extension) {
        if (((unsigned char)c < 0x20 && c != '\t') || c == 0x7f)
            return fail(p, 400, "control character in a chunk extension");
        if (++p->extensions > CHUNK_EXTENSION_MAX)
            return fail(p, 400, "chunk extensions are too long");
        return true;
    }
    if (c == ';' && p->chunk_digits > 0) {
        p->chunk_extension = true;
        return true;
    }
    int v = hex_value(c);
    if (v < 0)
        return fail(p, 400, "malformed chunk size");
    if (++p->chunk_digits > 16)
        return fail(p, 400, "chunk size has more than 16 digits");
    p->left = p->left << 4 | (uint64_t)v;
    return true;
}

/* Exactly CR LF: after a chunk's data, and after the last chunk (where anything else would be a trailer). */
static bool crlf_byte(struct http_parser *p, char c)
{
    bool last = p->state == ST_LAST_CRLF;
    if (c != (p->cr ? '\n' : '\r'))
        return fail(p, 400, last ? "trailers are not accepted" : "chunk data does not end where its size says");
    if (!p->cr) {
        p->cr = true;
    } else if (last) {
        p->state = ST_DONE;
    } else {
        begin_chunk_line(p);
    }
    return true;
}

/* How much of n may be delivered; what fits goes out first, so that the refusal does not depend on how reads were cut. */
static size_t body_by_close_room(struct http_parser *p, size_t n)
{
    uint64_t room = p->limits.body_bytes_max - p->body;
    if (n > 0 && room == 0)
        fail(p, 413, "body is too large");
    n = n < room ? n : (size_t)room;
    p->body += n;
    return n;
}

enum http_event http_parser_feed(struct http_parser *p, const char *in, size_t n, size_t *used, const char **data,
                                 size_t *data_len)
{
    *used = 0;
    if (p->state <= ST_HEADERS && feed_head(p, in, n, used))
        return HTTP_HEAD;
    for (;;) {
        switch (p->state) {
        case ST_FAILED: return HTTP_ERROR;
        case ST_DONE: return HTTP_END;
        default: break;
        }
        if (*used == n)
            return HTTP_NEED_MORE;
        size_t avail = n - *used;
        switch (p->state) {
        case ST_BODY_LENGTH:
        case ST_CHUNK_DATA:
            *data = in + *used;
            *data_len = avail < p->left ? avail : (size_t)p->left;
            *used += *data_len;
            p->left -= *data_len;
            if (p->left == 0) {
                bool chunk = p->state == ST_CHUNK_DATA;
                p->state = chunk ? ST_CHUNK_CRLF : ST_DONE;
                p->cr = false;
            }
            return HTTP_BODY;
        case ST_BODY_CLOSE:
            *data = in + *used;
            *data_len = body_by_close_room(p, avail);
            *used += *data_len;
            return p->state == ST_FAILED ? HTTP_ERROR : HTTP_BODY;
        case ST_CHUNK_SIZE: chunk_size_byte(p, in[(*used)++]); break;
        case ST_CHUNK_CRLF:
        case ST_LAST_CRLF: crlf_byte(p, in[(*used)++]); break;
        default: return HTTP_NEED_MORE; /* ST_START, ST_HEADERS: feed_head() has taken all */
        }
    }
}

enum http_event http_parser_eof(struct http_parser *p)
{
    switch (p->state) {
    case ST_BODY_CLOSE: p->state = ST_DONE; return HTTP_END;
    case ST_DONE: return HTTP_END;
    case ST_START:
        if (!p->begun)
            return HTTP_NEED_MORE;
        break;
    case ST_FAILED: return HTTP_ERROR;
    default: break;
    }
    fail(p, 400, "connection closed inside a message");
    return HTTP_ERROR;
}
