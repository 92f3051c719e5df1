/* The event stream splitter: whole frames, whatever the line ends and wherever the input is cut.
 * links: spw_base */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sse.h"
#include "test.h"

/* Frames written down as "raw|data;" with CR and LF shown as r and n, data "-" when there is none. */
static char log_text[1 << 16];
static int stop_at, frames;

static void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *format, ...)
{
    size_t at = strlen(log_text);
    va_list args;
    va_start(args, format);
    vsnprintf(log_text + at, sizeof(log_text) - at, format, args);
    va_end(args);
}

static void show(const char *p, size_t n)
{
    size_t at = strlen(log_text);
    for (size_t i = 0; i < n && at < sizeof(log_text) - 4; i++) {
        if (p[i] == '\r' || p[i] == '\n')
            log_text[at++] = '\\';
        log_text[at++] = p[i] == '\r' ? 'r' : p[i] == '\n' ? 'n' : p[i];
    }
    log_text[at] = '\0';
}

static enum rc note(const struct sse_frame *f, void *arg)
{
    (void)arg;
    show(f->raw, f->raw_len);
    tell("|");
    if (f->event_len) {
        show(f->event, f->event_len);
        tell(":");
    }
    if (f->has_data)
        show(f->data, f->data_len);
    else
        tell("-");
    tell(";");
    return ++frames == stop_at ? RC_CANCELLED : RC_OK;
}

/* Feed in pieces of `step` bytes (0: at once), from exact heap copies so that a sanitizer sees every overrun. */
static enum rc run(const char *in, size_t n, size_t step, size_t max, enum rc *finish)
{
    struct sse *s = sse_new(max);
    enum rc rc = RC_OK;
    log_text[0] = '\0';
    frames = 0;
    for (size_t at = 0; at < n && rc == RC_OK;) {
        size_t piece = step && step < n - at ? step : n - at;
        char *copy = malloc(piece);
        memcpy(copy, in + at, piece);
        rc = sse_feed(s, copy, piece, note, NULL);
        free(copy);
        at += piece;
    }
    *finish = rc == RC_OK ? sse_finish(s, note, NULL) : rc;
    sse_free(s);
    return rc;
}

static const struct {
    const char *in, *want;
    enum rc finish;
} cases[] = {
    {"data: a\n\n", "data: a\\n\\n|a;", RC_OK},
    {"data: a\r\n\r\n", "data: a\\r\\n\\r\\n|a;", RC_OK},
    {"data: a\r\rdata: b\r\r", "data: a\\r\\r|a;data: b\\r\\r|b;", RC_OK},
    {"data:a\n\ndata:  b\n\n", "data:a\\n\\n|a;data:  b\\n\\n| b;", RC_OK},
    {"data\n\n", "data\\n\\n|;", RC_OK},
    {"data: 1\ndata: 2\ndata\ndata: 4\n\n", "data: 1\\ndata: 2\\ndata\\ndata: 4\\n\\n|1\\n2\\n\\n4;", RC_OK},
    {": ping\n\n", ": ping\\n\\n|-;", RC_OK},
    {"event: x\nid: 3\ndata: y\n\n", "event: x\\nid: 3\\ndata: y\\n\\n|x:y;", RC_OK},
    {"datax: a\n\n", "datax: a\\n\\n|-;", RC_OK},
    {"data : a\n\n", "data : a\\n\\n|-;", RC_OK},
    {"\n\ndata: a\n\n", "\\n|-;\\n|-;data: a\\n\\n|a;", RC_OK},
    {"\r\n\r\ndata: a\n\n", "\\r\\n|-;\\r\\n|-;data: a\\n\\n|a;", RC_OK},
    {"data: a\r\n\n", "data: a\\r\\n\\n|a;", RC_OK},
    {"data: a\n\r\n", "data: a\\n\\r\\n|a;", RC_OK},
    {"data: a\n\rdata: b\n\n", "data: a\\n\\r|a;data: b\\n\\n|b;", RC_OK},
    {"data: a\r\r\ndata: b\n\n", "data: a\\r\\r|a;data: b\\n\\n|b;",
     RC_OK},                                         /* the LF behind a bare CR frame is dropped */
    {"data: a\r\n\r", "data: a\\r\\n\\r|a;", RC_OK}, /* decided by the end of the stream */
    {"\xef\xbb\xbf"
     "data: a\n\n",
     "\xef\xbb\xbf"
     "data: a\\n\\n|a;",
     RC_OK},
    {"data: a\n\ndata: b\n", "data: a\\n\\n|a;", RC_IO},
    {"data: a", "", RC_IO},
    {"", "", RC_OK},
    {"data: {\"x\":\"\xc3\xa4\"}\n\ndata: [DONE]\n\n",
     "data: {\"x\":\"\xc3\xa4\"}\\n\\n|{\"x\":\"\xc3\xa4\"};data: [DONE]\\n\\n|[DONE];", RC_OK},
};

static void splits_everywhere(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t step = 0; step < 8; step++) {
            enum rc finish;
            CHECK_INT(run(cases[i].in, strlen(cases[i].in), step, 0, &finish), RC_OK);
            CHECK_INT(finish, cases[i].finish);
            CHECK_STR(log_text, cases[i].want);
        }
}

static void frames_are_bounded(void)
{
    enum rc finish;
    /* "data: a\n\n" has 9 bytes. */
    CHECK_INT(run("data: a\n\ndata: b\n\n", 18, 0, 9, &finish), RC_OK);
    for (size_t step = 0; step < 4; step++) {
        CHECK_INT(run("data: a\n\ndata: bc\n\ndata: d\n\n", 28, step, 9, &finish), RC_FULL);
        CHECK_STR(log_text, "data: a\\n\\n|a;");
        CHECK_INT(run("data: abcdefghijklm", 19, step, 9, &finish), RC_FULL);
    }
    char *big = malloc(3 << 20);
    memset(big, 'x', 3 << 20);
    memcpy(big, "data: x", 7);
    CHECK_INT(run(big, 3 << 20, 65536, 0, &finish), RC_FULL);
    free(big);
}

static void a_callback_stops_for_good(void)
{
    enum rc finish;
    stop_at = 1;
    CHECK_INT(run("data: a\n\ndata: b\n\n", 18, 0, 0, &finish), RC_CANCELLED);
    CHECK_INT(finish, RC_CANCELLED);
    CHECK_INT(frames, 1);
    stop_at = 0;
}

int main(void)
{
    TEST(splits_everywhere);
    TEST(frames_are_bounded);
    TEST(a_callback_stops_for_good);
    return TEST_RESULT();
}
