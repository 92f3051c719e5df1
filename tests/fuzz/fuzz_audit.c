/* Fuzzes the readers of the audit's files: what somebody may have put in the place of a segment or an exported head is
 * read as far as it goes, and never believed. First byte: a head, a line, or a segment that is verified with the key or
 * without.
 * links: spw_sched_audit */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scheduler/audit/store.h"
#include "scheduler/audit/verify.h"

static char dir[] = "/tmp/fuzz-audit-XXXXXX", path[128];
static struct audit_keys keys, public;

static void end(void)
{
    unlink(path);
    rmdir(dir);
    audit_keys_fini(&keys);
    audit_keys_fini(&public);
}

static void begin(void)
{
    struct error e;
    char *key = spw_asprintf("%s.key", mkdtemp(dir));

    snprintf(path, sizeof path, "%s/000001-20270115.audit", dir);
    SPW_ASSERT(audit_keys_load(&keys, key, AUDIT_KEY_MAKE, &e) == RC_OK);
    SPW_ASSERT(audit_keys_from_public(&public, keys.public_part) == RC_OK);
    unlink(key);
    free(key);
    atexit(end);
}

static void check_head(const char *text, size_t n)
{
    struct audit_head h, again;
    struct strbuf out;
    struct error e;

    if (audit_head_read(&h, text, n, &e) != RC_OK)
        return;
    SPW_ASSERT(!audit_head_verify(&h, &public)); /* nobody has its key */
    strbuf_init(&out, 4096);
    SPW_ASSERT(audit_head_write(&h, &out) == RC_OK && audit_head_read(&again, out.data, out.len, &e) == RC_OK);
    SPW_ASSERT(memcmp(&h, &again, sizeof h) == 0);
    strbuf_fini(&out);
}

static void check_line(const char *text, size_t n)
{
    struct audit_segment s;
    struct audit_head h = {0};
    struct audit_line l;

    if (!audit_line_parse(text, n, &l))
        return;
    SPW_ASSERT(l.seq > 0 && l.json + l.n == text + n);
    if (audit_segment_read(l.json, l.n, &s))
        SPW_ASSERT(s.number > 0 && strlen(s.chain) == AUDIT_CHAIN_DIGITS);
    (void)audit_seal_read(l.json, l.n, &h);
}

static void check_segment(const char *text, size_t n, const struct audit_keys *k)
{
    struct verify_options o = {.dir = dir, .keys = k, .at_rest = true};
    struct verify_result r;
    struct audit_head h;
    struct error e;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    SPW_ASSERT(fd >= 0 && write(fd, text, n) == (ssize_t)n);
    close(fd);
    SPW_ASSERT(verify_chain(&r, &o, &e) == RC_OK);
    SPW_ASSERT(r.n_findings > 0); /* nothing of it was ever signed */
    verify_fini(&r);
    SPW_ASSERT(store_read_head(dir, k, &h, &e) != RC_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;

    if (!keys.sign)
        begin();
    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0: check_head(text, size - 1); break;
    case 1: check_line(text, size - 1); break;
    case 2: check_segment(text, size - 1, &keys); break;
    default: check_segment(text, size - 1, &public); break;
    }
    return 0;
}
