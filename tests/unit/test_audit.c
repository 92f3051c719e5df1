/* Proves the audit's format against OpenSSL's own primitives, that a chain goes on over days and restarts, that
 * whatever a crash leaves behind the last seal is mended and said, that a full disk loses nothing (or counts what it
 * loses, as configured), that callbacks come in order and once, after their record is under a signed head, and that
 * keys are made private and never replaced. With `bench N` it measures instead.
 * links: spw_sched_audit */
#include "tests/unit/test.h"

#include <errno.h>
#include <event2/event.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/text.h"
#include "scheduler/audit/audit.h"
#include "scheduler/audit/record.h"
#include "tests/unit/audit_help.h"

static struct event_base *loop;

/* ---- format -------------------------------------------------------------------------------------------------------- */

static void test_hmac(void)
{
    unsigned char key[200], text[300], ours[HMAC_BYTES], theirs[HMAC_BYTES];
    struct hmac_key k;
    struct hmac h;

    for (size_t n = 0; n < sizeof key; n += 7) {
        for (size_t i = 0; i < n; i++)
            key[i] = (unsigned char)(i * 31 + n);
        for (size_t i = 0; i < sizeof text; i++)
            text[i] = (unsigned char)(i * 7 + n);
        hmac_key_init(&k, key, n);
        hmac_begin(&h, &k);
        for (size_t at = 0, step = 1; at < sizeof text; at += step, step = step * 2 + 1) {
            step = at + step > sizeof text ? sizeof text - at : step;
            hmac_take(&h, text + at, step);
        }
        hmac_result(&h, &k, ours);
        CHECK(HMAC(EVP_sha256(), key, (int)n, text, sizeof text, theirs, NULL) != NULL);
        CHECK(memcmp(ours, theirs, sizeof ours) == 0);
        CHECK_INT(h.bytes, (int)sizeof text);
    }
}

/* A record, checked as docs/AUDIT.md says, by primitives of OpenSSL alone. */
static void test_line(void)
{
    struct audit_keys k = audit_key_pair();
    struct audit_hash prev = {{0}};
    struct strbuf out;
    struct audit_line l;
    int64_t seq = 41;
    static const char json[] = "{\"k\":\"x\",\"n\":1}";
    char prev_hex[65], mac_hex[33], c_hex[65], hash_hex[65], text[300];
    unsigned char digest[32];

    strbuf_init(&out, 4096);
    memset(prev.b, 7, sizeof prev.b);
    text_hex(prev_hex, prev.b, 32);
    CHECK(audit_line_write(&k.mac, json, sizeof json - 1, &seq, &prev, &out) == RC_OK);
    CHECK_INT(seq, 42);
    CHECK(out.data[out.len - 1] == '\n' && audit_line_parse(out.data, out.len - 1, &l));
    CHECK(l.seq == 42 && l.n == sizeof json - 1 && memcmp(l.json, json, l.n) == 0);
    SHA256((const unsigned char *)json, sizeof json - 1, digest);
    text_hex(c_hex, digest, 32);
    text_hex(mac_hex, l.mac, 16);
    snprintf(text, sizeof text, "%s 42 %s %s", prev_hex, mac_hex, c_hex);
    SHA256((const unsigned char *)text, strlen(text), digest);
    text_hex(hash_hex, digest, 32);
    CHECK(memcmp(out.data + 3, hash_hex, 64) == 0);
    CHECK(memcmp(prev.b, digest, 32) == 0);

    static const char *const bad[] = {
        "", "42", "042 ", "x", "1 zz", "-1 ", "99999999999999999999 ", " 1 ",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(!audit_line_parse(bad[i], strlen(bad[i]), &l));
    for (size_t n = 0; n < out.len - 1; n++)
        CHECK(!audit_line_parse(out.data, n, &l) || n == out.len - 2);
    strbuf_fini(&out);
    audit_keys_fini(&k);
}

static void test_heads(void)
{
    struct audit_keys k = audit_key_pair(), public;
    struct audit_head h = {.seq = 7, .chain = "00112233445566778899aabbccddeeff", .time = "2027-01-15T08:00:00.000Z"},
                      g;
    struct strbuf out;
    struct error e;

    strbuf_init(&out, 4096);
    h.hash.b[0] = 5;
    CHECK(audit_head_sign(&h, &k) == RC_OK && audit_head_verify(&h, &k));
    CHECK(audit_head_write(&h, &out) == RC_OK && audit_head_read(&g, out.data, out.len, &e) == RC_OK);
    CHECK(memcmp(&g, &h, sizeof g) == 0);
    CHECK(audit_keys_from_public(&public, h.public_part) == RC_OK && audit_head_verify(&g, &public));
    g.seq = 8;
    CHECK(!audit_head_verify(&g, &public));
    static const char *const bad[] = {"", "{}", "[]", "{\"chain\":\"x\"}", "{\"chain\":1,\"seq\":2}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(audit_head_read(&g, bad[i], strlen(bad[i]), &e) != RC_OK);
    strbuf_clear(&out);
    CHECK(audit_seal_write(&h, &out) == RC_OK);
    g = (struct audit_head){0};
    CHECK(audit_seal_read(out.data, out.len, &g) && memcmp(g.sig, h.sig, sizeof h.sig) == 0);
    CHECK_STR(g.time, h.time);
    /* No character of a seal can be another without its being no seal, or another signature. */
    for (size_t i = 0; i < out.len; i++) {
        char was = out.data[i];
        out.data[i] = was == 'A' ? 'B' : 'A';
        struct audit_head x = {.seq = h.seq, .hash = h.hash};
        memcpy(x.chain, h.chain, sizeof x.chain);
        CHECK(!audit_seal_read(out.data, out.len, &x) || !audit_head_verify(&x, &public));
        out.data[i] = was;
    }
    strbuf_fini(&out);
    audit_keys_fini(&k);
    audit_keys_fini(&public);
}

static void test_keys(void)
{
    struct audit_keys k = audit_key_pair(), again, public;
    struct strbuf pem;
    struct stat st;
    struct error e;
    uint8_t a[32], b[32];
    char print[80], other[80], path[128];

    CHECK(stat(audit_key, &st) == 0 && (st.st_mode & 07777) == 0600);
    CHECK(audit_keys_load(&again, audit_key, AUDIT_KEY_READ, &e) == RC_OK);
    CHECK(memcmp(k.public_part, again.public_part, 32) == 0);
    audit_tenant_key(&k, "acme", a);
    audit_tenant_key(&again, "acme", b);
    CHECK(memcmp(a, b, 32) == 0);
    audit_tenant_key(&k, "acme2", b);
    CHECK(memcmp(a, b, 32) != 0);
    strbuf_init(&pem, 4096);
    CHECK(audit_keys_public_pem(&k, &pem) == RC_OK && strstr(pem.data, "BEGIN PUBLIC KEY"));
    snprintf(path, sizeof path, "%s/pub.pem", audit_dir);
    audit_write_file(path, pem.data, pem.len);
    CHECK(audit_keys_load_public(&public, path, &e) == RC_OK && !public.sign);
    CHECK_STR(audit_keys_fingerprint(&public, print), audit_keys_fingerprint(&k, other));
    audit_keys_fini(&public);
    CHECK(audit_keys_load_public(&public, audit_key, &e) == RC_OK && !public.sign);
    audit_keys_fini(&public);
    audit_write_file(path, "nonsense", 8);
    CHECK(audit_keys_load_public(&public, path, &e) == RC_INVALID && strstr(e.message, "pub.pem"));
    CHECK(audit_keys_load(&public, path, AUDIT_KEY_READ, &e) == RC_DENIED); /* mode 0640 */
    unlink(path);
    CHECK(audit_keys_load(&public, path, AUDIT_KEY_READ, &e) == RC_NOT_FOUND);
    strbuf_fini(&pem);
    audit_keys_fini(&k);
    audit_keys_fini(&again);
}

/* ---- the store ----------------------------------------------------------------------------------------------------- */

static struct verify_result verify(const struct audit_keys *k)
{
    const struct verify_options o = {.dir = audit_dir, .keys = k};
    struct verify_result r;
    struct error e;

    if (verify_chain(&r, &o, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        CHECK(false);
    }
    return r;
}

static void check_sound(const struct audit_keys *k, int64_t records)
{
    struct verify_result r = verify(k);

    for (int i = 0; i < r.n_findings; i++)
        fprintf(stderr, "%s: %s\n", verify_what_name(r.findings[i].what), r.findings[i].text);
    CHECK_INT(r.n_findings, 0);
    if (records)
        CHECK_INT(r.records, records);
    verify_fini(&r);
}

static void clear_segments(void)
{
    char *path;

    while ((path = audit_segment_path(0))) {
        unlink(path);
        free(path);
    }
}

static void test_days_and_restarts(void)
{
    struct audit_keys k = audit_key_pair();
    struct store s;
    struct error e;
    int64_t day = 0, records = 0;

    clear_segments();
    for (int i = 0; i < 12; i++) {
        CHECK(store_open(&s, audit_dir, &k, NULL, &e) == RC_OK);
        CHECK_INT(s.seq, records);
        CHECK(s.kept == 0 && s.dropped == 0);
        records += i % 3 == 0; /* the segment's first */
        CHECK(audit_group(&s, T0 + day * 86400, i * 10, 3) == RC_OK);
        CHECK(audit_group(&s, T0 + day * 86400 - (i == 4 ? 90000 : 0), i * 10 + 3, 2) ==
              RC_OK); /* 4: the clock goes back */
        records += 3 + 1 + 2 + 1;
        CHECK_INT(s.seq, records);
        CHECK_INT(s.sealed.seq, records - 1);
        store_close(&s);
        day += i % 3 == 2;
    }
    check_sound(&k, records);
    struct audit_keys public;
    struct audit_head h;
    CHECK(audit_keys_from_public(&public, k.public_part) == RC_OK);
    check_sound(&public, records);
    CHECK(store_read_head(audit_dir, &public, &h, &e) == RC_OK && h.seq == records - 1);
    CHECK(audit_read_head(audit_dir, NULL, &h, &e) == RC_OK && h.seq == records - 1);
    const struct verify_options part = {.dir = audit_dir, .keys = &k, .from = 30, .to = 31};
    struct verify_result r;
    CHECK(verify_chain(&r, &part, &e) == RC_OK && r.n_findings == 0 && r.n_segments == 1 && r.first <= 30 &&
          r.last >= 31);
    verify_fini(&r);
    audit_keys_fini(&public);
    audit_keys_fini(&k);
}

/* Cut at every byte of the last two groups: what comes up again is sound, has all that was sealed before, and says what
 * it kept and dropped. */
static void test_torn_tails(void)
{
    struct audit_keys k = audit_key_pair();
    struct store s;
    struct error e;

    clear_segments();
    CHECK(store_open(&s, audit_dir, &k, NULL, &e) == RC_OK);
    CHECK(audit_group(&s, T0, 0, 4) == RC_OK);
    off_t sealed = s.size;
    int64_t seq = s.seq;
    CHECK(audit_group(&s, T0, 4, 3) == RC_OK);
    store_close(&s);
    char *path = audit_segment_path(0);
    struct strbuf whole = audit_read_file(path);
    for (size_t n = 0; n < whole.len; n += n < (size_t)sealed ? 37 : 3) {
        audit_write_file(path, whole.data, n);
        CHECK(store_open(&s, audit_dir, &k, NULL, &e) == RC_OK);
        CHECK(n < (size_t)sealed || s.seq >= seq);
        CHECK(n >= (size_t)sealed || s.seq == 0);
        CHECK(n < (size_t)sealed || s.dropped + s.size == (off_t)n);
        if (n % 30 == 0 || n + 3 > whole.len) { /* and it goes on */
            int64_t before = s.seq;
            CHECK(audit_group(&s, T0 + 86400, 9, 1) == RC_OK);
            CHECK(s.seq >= before + 2);
            store_close(&s);
            check_sound(&k, 0);
        } else {
            store_close(&s);
        }
        clear_segments();
    }
    strbuf_fini(&whole);
    free(path);
    audit_keys_fini(&k);
}

/* Whose chain is changed before its end does not go on as if nothing had happened. */
static void test_not_ours(void)
{
    struct audit_keys k = audit_key_pair();
    struct store s;
    struct error e;

    clear_segments();
    CHECK(store_open(&s, audit_dir, &k, NULL, &e) == RC_OK);
    for (int i = 0; i < 5; i++)
        CHECK(audit_group(&s, T0, i * 10, 3) == RC_OK);
    store_close(&s);
    char *path = audit_segment_path(0);
    struct strbuf b = audit_read_file(path);
    char *at = strstr(b.data, "req_11");
    at[4] = '7';
    audit_write_file(path, b.data, b.len);
    CHECK(store_open(&s, audit_dir, &k, NULL, &e) == RC_CONFLICT && strstr(e.message, "verify"));
    strbuf_fini(&b);
    free(path);
    audit_keys_fini(&k);
    clear_segments();
}

/* ---- the writer ---------------------------------------------------------------------------------------------------- */

struct faults {
    pthread_mutex_t lock;
    int fail_writes, fail_flushes, short_writes;
};
static struct faults faults = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool fails(int *counter)
{
    pthread_mutex_lock(&faults.lock);
    bool yes = *counter > 0;
    *counter -= yes;
    pthread_mutex_unlock(&faults.lock);
    return yes;
}

static ssize_t faulty_write(int fd, const void *data, size_t n, off_t at)
{
    if (fails(&faults.short_writes))
        return store_io_system.write(fd, data, n / 2 + 1, at);
    if (fails(&faults.fail_writes)) {
        (void)!store_io_system.write(fd, data, n / 3, at);
        errno = ENOSPC;
        return -1;
    }
    return store_io_system.write(fd, data, n, at);
}

static int faulty_flush(int fd)
{
    if (fails(&faults.fail_flushes)) {
        errno = EIO;
        return -1;
    }
    return store_io_system.flush(fd);
}

struct seen_callbacks {
    int n, ok, failed, last;
    bool out_of_order;
};
struct ticket {
    struct seen_callbacks *seen;
    int index;
};

static void done_cb(enum rc rc, void *arg)
{
    struct ticket *t = arg;

    t->seen->n++;
    t->seen->ok += rc == RC_OK;
    t->seen->failed += rc != RC_OK;
    t->seen->out_of_order |= t->index != t->seen->last + 1;
    t->seen->last = t->index;
}

static void wait_for(const struct seen_callbacks *seen, int n)
{
    while (seen->n < n && event_base_loop(loop, EVLOOP_ONCE) == 0) {
    }
}

static struct audit *open_audit(struct audit_options o)
{
    struct audit *a = NULL;
    struct error e;

    o.dir = audit_dir;
    if (audit_open(&a, &o, &e) != RC_OK)
        fprintf(stderr, "%s\n", e.message);
    CHECK(a != NULL);
    return a;
}

static void append_some(struct audit_port *p, struct ticket *tickets, struct seen_callbacks *seen, int n)
{
    for (int i = 0; i < n; i++) {
        char text[64];
        int k = snprintf(text, sizeof text, "{\"k\":\"request\",\"id\":\"req_%d\"}", i);
        tickets[i] = (struct ticket){seen, i};
        CHECK(audit_append(p, text, (size_t)k, done_cb, &tickets[i]) == RC_OK);
    }
}

static void test_writer(void)
{
    struct seen_callbacks seen = {.last = -1};
    static struct ticket tickets[5000];
    struct audit_port *p;
    struct error e;

    clear_segments();
    struct audit *a = open_audit((struct audit_options){0});
    CHECK(audit_port_new(&p, a, loop, &e) == RC_OK);
    append_some(p, tickets, &seen, 5000);
    CHECK_INT(seen.n, 0); /* never from inside */
    wait_for(&seen, 5000);
    CHECK(seen.ok == 5000 && !seen.out_of_order);
    CHECK(audit_newest_head(a).seq >= 5000 &&
          audit_head_verify(&(struct audit_head[]){audit_newest_head(a)}[0], audit_keys_of(a)));
    /* What is appended and not waited for is written before the port is gone. */
    seen = (struct seen_callbacks){.last = -1};
    append_some(p, tickets, &seen, 100);
    CHECK(audit_note(a, "{\"k\":\"stop\"}", 12) == RC_OK);
    audit_port_free(p);
    CHECK_INT(seen.ok, 100);
    struct audit_stats s = audit_stats(a);
    CHECK(s.records >= 5100 && s.failures == 0 && s.lost == 0);
    audit_close(a);
    struct audit_keys k = audit_key_pair();
    check_sound(&k, 0);
    audit_keys_fini(&k);
}

static struct store_io faulty_io(void)
{
    struct store_io io = store_io_system;

    io.write = faulty_write;
    io.flush = faulty_flush;
    return io;
}

/* A disk that is full for a while, flushes that fail, writes that are short: nothing is told until it is true, nothing lost. */
static void test_full_disk_refuse(void)
{
    const struct store_io io = faulty_io();
    struct seen_callbacks seen = {.last = -1};
    static struct ticket tickets[300];
    struct audit_port *p;
    struct error e;
    char text[256];

    clear_segments();
    struct audit *a = open_audit((struct audit_options){.io = &io});
    CHECK(audit_port_new(&p, a, loop, &e) == RC_OK);
    faults.fail_writes = 2;
    faults.short_writes = 1;
    faults.fail_flushes = 1;
    append_some(p, tickets, &seen, 300);
    wait_for(&seen, 300);
    CHECK(seen.ok == 300 && !seen.out_of_order);
    struct audit_stats s = audit_stats(a);
    CHECK(s.failures == 3 && s.lost == 0 && !s.failing);
    CHECK(strstr(audit_last_error(a, text, sizeof text), "flush") || strstr(text, "writ"));
    /* One that never comes back does not hold up the end. */
    faults.fail_writes = 1 << 20;
    seen = (struct seen_callbacks){.last = -1};
    append_some(p, tickets, &seen, 10);
    audit_port_free(p);
    CHECK_INT(seen.failed, 10);
    CHECK(audit_is_failing(a));
    audit_close(a);
    faults.fail_writes = 0;
    struct audit_keys k = audit_key_pair();
    struct store st;
    CHECK(store_open(&st, audit_dir, &k, NULL, &e) == RC_OK); /* what the last try left is cut off */
    CHECK(audit_group(&st, T0, 0, 1) == RC_OK);
    store_close(&st);
    check_sound(&k, 0);
    audit_keys_fini(&k);
}

static void test_full_disk_continue(void)
{
    const struct store_io io = faulty_io();
    struct seen_callbacks seen = {.last = -1};
    static struct ticket tickets[20];
    struct audit_port *p;
    struct error e;

    clear_segments();
    struct audit *a = open_audit((struct audit_options){.io = &io, .on_failure = AUDIT_CONTINUE, .queue_max = 8});
    CHECK(audit_port_new(&p, a, loop, &e) == RC_OK);
    faults.fail_writes = 1;
    append_some(p, tickets, &seen, 8);
    CHECK(audit_append(p, "{}", 2, NULL, NULL) == RC_FULL);
    wait_for(&seen, 8);
    CHECK_INT(seen.failed, 8);
    append_some(p, tickets, &seen, 1);
    seen.last = -1;
    wait_for(&seen, 9);
    CHECK_INT(seen.ok, 1);
    CHECK_INT(audit_stats(a).lost, 9);
    audit_port_free(p);
    audit_close(a);
    char *path = audit_segment_path(0);
    struct strbuf b = audit_read_file(path);
    CHECK(strstr(b.data, "\"k\":\"lost\"") && strstr(b.data, "\"n\":9,\"since\":"));
    strbuf_fini(&b);
    free(path);
}

static void test_logins(void)
{
    int allowed = 0;

    clear_segments();
    struct audit *a = open_audit((struct audit_options){.logins_per_s = 5});
    for (int i = 0; i < 1000; i++)
        allowed += audit_login_allowed(a);
    CHECK(allowed >= 5 && allowed <= 10); /* a second may end meanwhile */
    audit_close(a);                       /* tells what was not written */
    char *path = audit_segment_path(0), want[64];
    struct strbuf b = audit_read_file(path);
    snprintf(want, sizeof want, "\"k\":\"refused_more\"");
    CHECK(strstr(b.data, want) != NULL);
    strbuf_fini(&b);
    free(path);
}

/* No new key under an old chain. */
static void test_key_is_gone(void)
{
    struct audit_options o = {.dir = audit_dir};
    struct audit *a = open_audit(o);
    struct error e;

    CHECK(audit_note(a, "{\"k\":\"start\"}", 13) == RC_OK);
    audit_close(a);
    char away[128];
    snprintf(away, sizeof away, "%s/away", audit_dir);
    CHECK(rename(audit_key, away) == 0);
    CHECK(audit_open(&a, &o, &e) == RC_NOT_FOUND && strstr(e.message, "backup"));
    CHECK(access(audit_key, F_OK) != 0);
    struct audit_keys other = audit_key_pair(); /* and not under another */
    CHECK(audit_open(&a, &o, &e) == RC_CONFLICT);
    audit_keys_fini(&other);
    CHECK(rename(away, audit_key) == 0);
}

/* Killed in the middle, again and again: what was called durable is there, and the chain is sound. */
static void test_kill(void)
{
    struct audit_keys k = audit_key_pair();
    int told[2];

    clear_segments();
    for (int round = 0; round < 5; round++) {
        CHECK(pipe(told) == 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct seen_callbacks seen = {.last = -1};
            static struct ticket tickets[100000];
            struct audit_port *p;
            struct error e;
            loop = event_base_new();
            struct audit *a = open_audit((struct audit_options){0});
            if (audit_port_new(&p, a, loop, &e) != RC_OK)
                _exit(1);
            for (int i = 0; i < 100000; i += 3) {
                append_some(p, tickets + i, &seen, 3);
                event_base_loop(loop, EVLOOP_ONCE);
                int64_t head = audit_newest_head(a).seq;
                (void)!write(told[1], &head, sizeof head);
            }
            _exit(1);
        }
        int64_t head = 0, next;
        close(told[1]);
        for (int i = 0; i < 40 + round * 13 && read(told[0], &next, sizeof next) == sizeof next; i++)
            head = next;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(told[0]);
        struct store s;
        struct error e;
        CHECK(store_open(&s, audit_dir, &k, NULL, &e) == RC_OK);
        CHECK(s.seq > head || head == 0);
        CHECK(audit_group(&s, 1000000000, round, 1) == RC_OK); /* long ago: it stays in today's segment */
        store_close(&s);
        check_sound(&k, 0);
    }
    audit_keys_fini(&k);
}

/* ---- records ------------------------------------------------------------------------------------------------------- */

static void test_records(void)
{
    struct ledger_leg legs[2] = {{.leg = 1, .node = "a\"b", .outcome = "cut", .tokens_output = 3},
                                 {.leg = 2, .node = "gpu1", .numerics = "0123", .outcome = "ok", .tokens_output = 4}};
    struct ledger_row row = {.request_id = "req_1",
                             .tenant = "acme\n",
                             .model = "m",
                             .node = "gpu1",
                             .attempts = 2,
                             .tokens = {10, 2, 7},
                             .charge = {1230000},
                             .accepted = {T0 * NS_PER_S},
                             .finished = {T0 * NS_PER_S},
                             .http_status = 200,
                             .legs = legs,
                             .n_legs = 2};
    struct record_request r = {.row = &row, .policy = "p1", .peer = "10.0.0.1", .request = {true, {1}, 100}};
    struct strbuf out;

    strbuf_init(&out, AUDIT_JSON_BYTES_MAX);
    CHECK(record_request(&out, &r) == RC_OK);
    CHECK(!strchr(out.data, '\n'));
    CHECK(strstr(out.data, "\"tenant\":\"acme\\n\"") && strstr(out.data, "\"model_hash\":\"0123\""));
    CHECK(strstr(out.data, "\"request_hmac\":\"0100") && strstr(out.data, "\"request_bytes\":100"));
    CHECK(!strstr(out.data, "response_hmac") && strstr(out.data, "\"charge_usd\":\"0.00000123\""));
    struct record_admin admin = {.at = {T0 * NS_PER_S},
                                 .method = "POST",
                                 .path = "/admin/v1/keys",
                                 .by = "socket",
                                 .body = "{\"tenant\":\"a\"}",
                                 .n = 14};
    CHECK(record_admin(&out, &admin) == RC_OK && strstr(out.data, "\"body\":\"{\\\"tenant\\\":\\\"a\\\"}\""));
    static char long_body[RECORD_ADMIN_BODY_MAX + 1];
    memset(long_body, 'x', sizeof long_body);
    admin.body = long_body;
    admin.n = sizeof long_body;
    CHECK(record_admin(&out, &admin) == RC_OK && strstr(out.data, "body_sha256") && out.len < 500);
    strbuf_fini(&out);
}

/* ---- measuring ----------------------------------------------------------------------------------------------------- */

static void nothing(enum rc rc, void *arg)
{
    *(int *)arg += rc == RC_OK;
}

/* Of this thread alone: other programs may be at work. */
static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void bench_hashing(const struct audit *a, int n, struct record_request *r)
{
    static char body[1200], chunk[180];
    double start = cpu_us();

    for (int i = 0; i < n; i++) {
        struct hmac_key key;
        struct hmac h;
        uint8_t tenant[HMAC_BYTES];
        audit_tenant_key(audit_keys_of(a), "acme", tenant);
        hmac_key_init(&key, tenant, sizeof tenant);
        hmac_of(&key, body, sizeof body, r->request.hmac);
        hmac_begin(&h, &key);
        for (int c = 0; c < 70; c++)
            hmac_take(&h, chunk, sizeof chunk);
        hmac_result(&h, &key, r->response.hmac);
    }
    r->request.known = r->response.known = true;
    printf("on the loop, for each request: %.2f us to hash both bodies (1.2 kB, and 70 chunks of 180 bytes)\n",
           (cpu_us() - start) / n);
}

static void bench_writing(struct audit *a, struct audit_port *p, int n, const struct record_request *r)
{
    struct strbuf out;
    double cpu = 0;
    int done = 0;

    strbuf_init(&out, AUDIT_JSON_BYTES_MAX);
    struct mono start = clock_now(&clock_system);
    for (int i = 0; i < n; i += 16) {
        double before = cpu_us();
        for (int k = 0; k < 16; k++) {
            CHECK(record_request(&out, r) == RC_OK);
            CHECK(audit_append(p, out.data, out.len, nothing, &done) == RC_OK);
        }
        cpu += cpu_us() - before;
        event_base_loop(loop, EVLOOP_NONBLOCK);
    }
    while (done < n)
        event_base_loop(loop, EVLOOP_ONCE);
    double s = (double)mono_since(&clock_system, start) / 1e9;
    struct audit_stats st = audit_stats(a);
    printf("%.2f us to write and queue its record (%zu bytes); %d records durable in %.2f s: %.0f/s, %.0f a group\n",
           cpu / n, out.len, n, s, n / s, (double)st.records / (double)st.groups);
    strbuf_fini(&out);
}

/* n: a multiple of 16. */
static void bench(int n)
{
    struct ledger_leg leg = {.leg = 1, .node = "gpu1", .numerics = "0123456789abcdef0123456789abcdef", .outcome = "ok"};
    struct ledger_row row = {.request_id = "req_01M86BJ8M257CGR4M2YNXMEK7G",
                             .tenant = "acme",
                             .team = "search",
                             .key_id = "key-1",
                             .model = "llama-70b",
                             .node = "gpu1",
                             .provider = "static",
                             .attempts = 1,
                             .tokens = {1000, 100, 70},
                             .charge = {1230000},
                             .accepted = {T0 * NS_PER_S},
                             .finished = {T0 * NS_PER_S},
                             .http_status = 200,
                             .legs = &leg,
                             .n_legs = 1};
    struct record_request r = {.row = &row, .policy = "0123456789abcdef", .peer = "10.0.0.1"};
    struct audit_port *p;
    struct error e;

    clear_segments();
    struct audit *a = open_audit((struct audit_options){.queue_max = 1000000});
    CHECK(audit_port_new(&p, a, loop, &e) == RC_OK);
    bench_hashing(a, n, &r);
    bench_writing(a, p, n, &r);
    audit_port_free(p);
    audit_close(a);
    struct audit_keys k = audit_key_pair();
    struct mono start = clock_now(&clock_system);
    check_sound(&k, 0);
    double s = (double)mono_since(&clock_system, start) / 1e9;
    printf("verified in %.2f s: %.0f records/s\n", s, n / s);
    audit_keys_fini(&k);
}

int main(int argc, char **argv)
{
    audit_folder();
    loop = event_base_new();
    if (argc == 3 && strcmp(argv[1], "bench") == 0) {
        bench((int)strtol(argv[2], NULL, 10));
    } else {
        TEST(test_hmac);
        TEST(test_line);
        TEST(test_heads);
        TEST(test_keys);
        TEST(test_days_and_restarts);
        TEST(test_torn_tails);
        TEST(test_not_ours);
        TEST(test_writer);
        TEST(test_full_disk_refuse);
        TEST(test_full_disk_continue);
        TEST(test_logins);
        TEST(test_key_is_gone);
        TEST(test_kill);
        TEST(test_records);
    }
    event_base_free(loop);
    audit_clean();
    return TEST_RESULT();
}
