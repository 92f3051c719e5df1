/* Fuzzes what engines say to their scheduler. First byte: which of the three bodies, or a request for a certificate,
 * follows. What is accepted must be within bounds.
 * links: spw_sched_join */
#include <string.h>

#include "base/cert.h"
#include "scheduler/join/beat.h"

static void check_hello(const char *text, size_t n)
{
    struct node_hello h;
    struct error e;
    if (node_hello_read(&h, text, n, &e) == RC_OK)
        SPW_ASSERT(h.port > 0 && h.port < 65536 && h.request[0] && strlen(h.request) < sizeof h.request &&
                   !strchr(h.host, '/') && strlen(h.model) < sizeof h.model);
}

static void check_beat(const char *text, size_t n)
{
    struct node_beat b;
    struct error e;
    if (node_beat_read(&b, text, n, &e) != RC_OK)
        return;
    SPW_ASSERT(b.queue >= 0 && b.running >= 0 && b.kv_free_tokens >= -1 && b.tokens_per_s >= 0 && b.milliwatts >= 0);
    SPW_ASSERT(b.sleep <= NODE_SLEEP_UNKNOWN && b.watts_are <= NODE_WATTS_MEASURED && b.card.slots >= 0);
    SPW_ASSERT(!b.card.resume || strlen(b.card.numerics) == NUMERICS_DIGITS);
}

static void check_notice(const char *text, size_t n)
{
    struct node_notice x;
    struct error e;
    if (node_notice_read(&x, text, n, &e) == RC_OK)
        SPW_ASSERT(x.what[0] && x.left_ms >= -1);
}

static void check_request(const char *text, size_t n)
{
    EVP_PKEY *key = NULL;
    struct error e;
    if (cert_request_read(&key, text, n, &e) == RC_OK)
        EVP_PKEY_free(key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const checks[])(const char *text, size_t n) = {check_hello, check_beat, check_notice, check_request};
    if (size > 0)
        checks[data[0] % 4]((const char *)data + 1, size - 1);
    return 0;
}
