/* Proves that the scheduler's authority keeps its key to itself, is the same after a restart, and signs only for the
 * name that it was told; that a client that pins it believes it and no other; that a token works once, for its node, in
 * its time, also across restarts and lost answers; that a damaged or cut book is told or mended; and that whatever
 * engines may send is read or refused.
 * links: spw_sched_join spw_base */
#include "tests/unit/test.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/tls.h"
#include "scheduler/join/beat.h"
#include "scheduler/join/tokens.h"
#include "tests/unit/folder_help.h"

#define NOW INT64_C(1790000000)

static char dir[64];

static char *at(const char *name)
{
    static char paths[4][128];
    static int i;
    char *p = paths[i++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

static struct ca *open_ca(const char *name, int64_t now)
{
    struct ca *ca = NULL;
    struct error e;
    CHECK_INT(ca_open(&ca, at(name), now, &e), RC_OK);
    return ca;
}

static char *make_request(EVP_PKEY **key)
{
    struct strbuf pem;
    struct error e;
    strbuf_init(&pem, 8192);
    CHECK_INT(cert_key_new(key, &e), RC_OK);
    CHECK_INT(cert_request_write(*key, &pem, &e), RC_OK);
    char *text = strbuf_take(&pem);
    strbuf_fini(&pem);
    return text;
}

static void test_authority(void)
{
    struct ca *ca = open_ca("ca1", NOW);
    uint8_t print[CERT_FINGERPRINT_BYTES], secret[32], again[32];
    struct stat st;
    struct error e;
    CHECK(stat(at("ca1/ca.key"), &st) == 0 && (st.st_mode & 0777) == 0600);
    CHECK(stat(at("ca1/scheduler.pem"), &st) == 0 && (st.st_mode & 0777) == 0600);
    CHECK(stat(at("ca1"), &st) == 0 && (st.st_mode & 0777) == 0700);
    memcpy(print, ca_fingerprint(ca), sizeof print);
    ca_secret(ca, "a", "b", secret);
    ca_secret(ca, "a", "c", again);
    CHECK(memcmp(secret, again, 32) != 0);
    ca_free(ca);
    ca = open_ca("ca1", NOW + 5);
    ca_secret(ca, "a", "b", again);
    CHECK(memcmp(print, ca_fingerprint(ca), sizeof print) == 0 && memcmp(secret, again, 32) == 0);
    ca_free(ca);
    CHECK(chmod(at("ca1/ca.key"), 0644) == 0);
    CHECK_INT(ca_open(&ca, at("ca1"), NOW, &e), RC_INVALID);
    CHECK(strstr(e.message, "chmod 600"));
    CHECK(chmod(at("ca1/ca.key"), 0600) == 0);
    CHECK_INT(ca_open(&ca, at("ca1"), NOW + 11 * INT64_C(31557600), &e), RC_INVALID); /* it has run out */
    struct ca *other = open_ca("ca2", NOW);
    CHECK(rename(at("ca2/ca.pem"), at("ca1/ca.pem")) == 0);
    CHECK_INT(ca_open(&ca, at("ca1"), NOW, &e), RC_INVALID);
    CHECK(strstr(e.message, "not the certificate"));
    ca_free(other);
}

static void test_certificates(void)
{
    struct ca *ca = open_ca("ca3", NOW);
    EVP_PKEY *key = NULL, *rsa = EVP_RSA_gen(2048);
    char *request = make_request(&key), name[TOKEN_NAME_MAX];
    struct strbuf pem;
    struct error e;
    X509 *cert = NULL;
    strbuf_init(&pem, 8192);
    CHECK_INT(ca_issue(ca, "gpu_1.a", request, strlen(request), NOW, 3600, &pem, &e), RC_OK);
    CHECK_INT(cert_read(&cert, pem.data, pem.len, &e), RC_OK);
    CHECK(ca_node_of(cert, name, sizeof name));
    CHECK_STR(name, "gpu_1.a");
    CHECK_INT(cert_until_s(cert), NOW + 3600);
    CHECK_INT(ca_issued_s(cert), NOW);
    CHECK(cert_is_for(cert, "gpu_1.a.node.spillway") && !cert_is_for(cert, CA_SCHEDULER_NAME));
    CHECK(X509_check_private_key(cert, key) == 1);
    X509_free(cert);
    /* names that would say more than a name */
    CHECK(ca_issue(ca, "a,DNS:scheduler.spillway", request, strlen(request), NOW, 60, &pem, &e) == RC_INVALID);
    CHECK(ca_issue(ca, "", request, strlen(request), NOW, 60, &pem, &e) == RC_OK); /* ".node.spillway": no node's */
    /* a request whose proof is broken, another kind of key, no request */
    char *broken = strdup(request), *middle = broken + strlen(broken) / 2;
    *middle = *middle == 'A' ? 'B' : 'A';
    CHECK(ca_issue(ca, "n", broken, strlen(broken), NOW, 60, &pem, &e) == RC_INVALID);
    strbuf_clear(&pem);
    CHECK_INT(cert_request_write(rsa, &pem, &e), RC_OK);
    char *foreign = strbuf_take(&pem);
    CHECK(ca_issue(ca, "n", foreign, strlen(foreign), NOW, 60, &pem, &e) == RC_INVALID);
    CHECK(ca_issue(ca, "n", "hello", 5, NOW, 60, &pem, &e) == RC_INVALID);
    free(foreign);
    free(broken);
    free(request);
    strbuf_fini(&pem);
    EVP_PKEY_free(key);
    EVP_PKEY_free(rsa);
    ca_free(ca);
}

/* One handshake over a socket pair: is the scheduler believed? */
static bool pinned_handshake(const struct ca *ca, const uint8_t pin[TLS_PIN_BYTES], const char *name)
{
    const struct tls_server_files files = {ca_scheduler_file(ca), ca_scheduler_file(ca), ca_file(ca),
                                           TLS_CLIENT_CERTS_OPTIONAL, NULL};
    SSL_CTX *server = NULL, *client = NULL;
    struct error e;
    CHECK_INT(tls_server_new(&server, &files, &e), RC_OK);
    CHECK_INT(tls_client_pinned(&client, pin, &e), RC_OK);
    SSL *s = SSL_new(server), *c = SSL_new(client);
    BIO *a = NULL, *b = NULL;
    CHECK(BIO_new_bio_pair(&a, 0, &b, 0) == 1);
    SSL_set_bio(s, a, a);
    SSL_set_bio(c, b, b);
    CHECK_INT(tls_client_expect(c, name, &e), RC_OK);
    SSL_set_accept_state(s);
    SSL_set_connect_state(c);
    for (int i = 0; i < 20 && !(SSL_is_init_finished(s) && SSL_is_init_finished(c)); i++) {
        SSL_do_handshake(c);
        SSL_do_handshake(s);
    }
    const bool ok = SSL_is_init_finished(c) && SSL_is_init_finished(s);
    SSL_free(s);
    SSL_free(c);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    return ok;
}

static void test_pinning(void)
{
    struct ca *ca = open_ca("pin", time(NULL)), *other = open_ca("other", time(NULL));
    CHECK(pinned_handshake(ca, ca_fingerprint(ca), CA_SCHEDULER_NAME));
    CHECK(!pinned_handshake(ca, ca_fingerprint(other), CA_SCHEDULER_NAME));
    CHECK(!pinned_handshake(ca, ca_fingerprint(ca), "n.node.spillway"));
    ca_free(ca);
    ca_free(other);
}

static void test_tokens(void)
{
    struct ca *ca = open_ca("tok", NOW), *other = open_ca("tok2", NOW);
    struct token t = {.kind = TOKEN_NODE, .issued_s = NOW, .until_s = NOW + 60}, back;
    char text[TOKEN_TEXT_MAX], longest[TOKEN_TEXT_MAX];
    struct error e;
    snprintf(t.name, sizeof t.name, "gpu1");
    CHECK_INT(token_write(ca, &t, text, &e), RC_OK);
    CHECK_INT(token_read(ca, text, NOW, &back, &e), RC_OK);
    CHECK(back.kind == TOKEN_NODE && back.issued_s == NOW && back.until_s == NOW + 60);
    CHECK_STR(back.name, "gpu1");
    CHECK_INT(token_read(ca, text, NOW + 60, &back, &e), RC_DENIED); /* has run out */
    CHECK_INT(token_read(other, text, NOW, &back, &e), RC_DENIED);
    for (size_t i = 0; i < strlen(text); i++) { /* any other letter in it */
        char was = text[i];
        text[i] = was == 'b' ? 'c' : 'b';
        CHECK(token_read(ca, text, NOW, &back, &e) != RC_OK);
        text[i] = was;
    }
    CHECK_INT(token_read(ca, "", NOW, &back, &e), RC_INVALID);
    CHECK_INT(token_read(ca, "spwj1..", NOW, &back, &e), RC_INVALID);
    memset(t.name, 'x', sizeof t.name - 1);
    t.kind = TOKEN_POOL;
    CHECK_INT(token_write(ca, &t, longest, &e), RC_OK);
    CHECK(strlen(longest) < TOKEN_TEXT_MAX - 16);
    CHECK_INT(token_read(ca, longest, NOW, &back, &e), RC_OK);
    CHECK_STR(back.name, t.name);
    ca_free(ca);
    ca_free(other);
}

static void use_durably(struct book *b, const struct token *t, const uint8_t key[32])
{
    struct strbuf lines;
    struct error e;
    strbuf_init(&lines, 4096);
    book_use_line(t, key, &lines);
    CHECK_INT(book_write(b, lines.data, lines.len, &e), RC_OK);
    strbuf_fini(&lines);
}

static void test_book(void)
{
    struct book *b = NULL;
    struct token t = {.kind = TOKEN_NODE, .name = "gpu1", .issued_s = NOW, .until_s = NOW + 60, .hash = {1}};
    const uint8_t ours[32] = {7}, theirs[32] = {8};
    bool again;
    struct error e;
    CHECK_INT(book_open(&b, at("book"), NOW, &e), RC_OK);
    CHECK(book_use(b, &t, ours, NOW, &again, &e) == RC_OK && !again);
    use_durably(b, &t, ours);
    CHECK_INT(book_use(b, &t, ours, NOW, &again, &e), RC_AGAIN); /* it asks again before that is on disk */
    book_used(b, &t);
    CHECK(book_use(b, &t, ours, NOW, &again, &e) == RC_OK && again); /* its answer was lost */
    CHECK_INT(book_use(b, &t, theirs, NOW, &again, &e), RC_DENIED);
    struct strbuf lines;
    strbuf_init(&lines, 4096);
    CHECK_INT(book_revoke(b, "gpu2", NOW, NOW + 1000, NOW, &e), RC_OK);
    book_revoke_line("gpu2", NOW, NOW + 1000, &lines);
    strbuf_puts(&lines, "used 00cut"); /* by a crash */
    CHECK_INT(book_write(b, lines.data, lines.len, &e), RC_OK);
    strbuf_fini(&lines);
    book_close(b);
    CHECK_INT(book_open(&b, at("book"), NOW + 1, &e), RC_OK);
    CHECK_INT(book_use(b, &t, theirs, NOW + 1, &again, &e), RC_DENIED);
    CHECK(book_is_revoked(b, "gpu2", NOW) && !book_is_revoked(b, "gpu2", NOW + 1) && !book_is_revoked(b, "gpu1", 0));
    use_durably(b, &t, ours); /* the cut line did not spoil this one */
    book_close(b);
    CHECK_INT(book_open(&b, at("book"), NOW + 61, &e), RC_OK); /* the token has run out: nothing to remember */
    CHECK(book_use(b, &t, theirs, NOW + 61, &again, &e) == RC_OK && !again);
    book_unuse(b, &t);
    for (int i = 0; i < BOOK_USED_MAX; i++) {
        memcpy(t.hash, &i, sizeof i);
        t.until_s = NOW + 100;
        CHECK(book_use(b, &t, ours, NOW + 61, &again, &e) == RC_OK);
    }
    t.hash[31] = 9;
    CHECK_INT(book_use(b, &t, ours, NOW + 61, &again, &e), RC_FULL);
    book_close(b);
    CHECK_INT(file_replace(at("book"), 0600, "nonsense\n", 9, &e), RC_OK);
    CHECK_INT(book_open(&b, at("book"), NOW, &e), RC_INVALID);
    CHECK(strstr(e.message, "line 1"));
}

static void test_hello(void)
{
    struct node_hello h;
    struct error e;
    const char *good = "{\"request\":\"PEM\",\"port\":8443,\"host\":\"10.0.0.5\",\"model\":\"m\",\"later\":[1]}";
    CHECK_INT(node_hello_read(&h, good, strlen(good), &e), RC_OK);
    CHECK_INT(h.port, 8443);
    CHECK_STR(h.host, "10.0.0.5");
    const char *const bad[] = {"",
                               "[]",
                               "{}",
                               "{\"request\":\"PEM\"}",
                               "{\"request\":\"PEM\",\"port\":0}",
                               "{\"request\":\"PEM\",\"port\":70000}",
                               "{\"request\":7,\"port\":1}",
                               "{\"request\":\"PEM\",\"port\":1,\"host\":\"a/b\"}",
                               "{\"request\":\"PEM\",\"port\":1,\"host\":\"a\\nb\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(node_hello_read(&h, bad[i], strlen(bad[i]), &e) != RC_OK);
}

static void test_beats(void)
{
    struct node_beat b;
    struct error e;
    const char *full = "{\"queue\":3,\"running\":2,\"kv_free_tokens\":4096,\"tokens_per_s\":12.5,\"milliwatts\":41000,"
                       "\"watts_are\":\"measured\",\"millijoules\":123456,\"sleep\":\"asleep\",\"ready\":true,"
                       "\"model\":\"m\",\"numerics\":\"00112233445566778899aabbccddeeff\",\"resume\":true,\"slots\":8,"
                       "\"context\":4096,\"kv_tokens\":8192,\"restarts\":1,\"order_done\":4}";
    CHECK_INT(node_beat_read(&b, full, strlen(full), &e), RC_OK);
    CHECK(b.queue == 3 && b.running == 2 && b.kv_free_tokens == 4096 && b.milliwatts == 41000);
    CHECK(b.watts_are == NODE_WATTS_MEASURED && b.sleep == NODE_SLEEPS && b.ready && !b.draining && b.order_done == 4);
    CHECK(b.card.resume && b.card.slots == 8 && b.card.kv_tokens == 8192 && b.card.context == 4096);
    CHECK_INT(node_beat_read(&b, "{}", 2, &e), RC_OK); /* an engine that says nothing is alive all the same */
    CHECK(b.kv_free_tokens == -1 && b.sleep == NODE_SLEEP_UNKNOWN && b.watts_are == NODE_WATTS_UNKNOWN);
    const char *odd = "{\"sleep\":\"dreaming\",\"watts_are\":\"guessed\",\"milliwatts\":5,\"numerics\":\"xyz\","
                      "\"resume\":true}"; /* words of a later version */
    CHECK_INT(node_beat_read(&b, odd, strlen(odd), &e), RC_OK);
    CHECK(b.sleep == NODE_SLEEP_UNKNOWN && b.milliwatts == 0 && !b.card.resume && !b.card.numerics[0]);
    const char *const bad[] = {"",
                               "null",
                               "{\"queue\":-1}",
                               "{\"queue\":1e9}",
                               "{\"tokens_per_s\":\"x\"}",
                               "{\"milliwatts\":1,\"milliwatts\":2}",
                               "{\"a\":[[[[[[[[[[1]]]]]]]]]]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(node_beat_read(&b, bad[i], strlen(bad[i]), &e) != RC_OK);
    for (size_t cut = 0; cut < strlen(full); cut++)
        CHECK(node_beat_read(&b, full, cut, &e) != RC_OK);
}

static void test_notices(void)
{
    struct node_notice x;
    struct error e;
    const char *good = "{\"what\":\"spot_interruption\",\"left_s\":29.5}";
    CHECK_INT(node_notice_read(&x, good, strlen(good), &e), RC_OK);
    CHECK_INT(x.left_ms, 29500);
    CHECK_INT(node_notice_read(&x, "{\"what\":\"rebalance\"}", 20, &e), RC_OK);
    CHECK_INT(x.left_ms, -1);
    CHECK(node_notice_read(&x, "{}", 2, &e) != RC_OK);
    CHECK(node_notice_read(&x, "{\"what\":\"A b\"}", 14, &e) != RC_OK);
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/spillway-join-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    TEST(test_authority);
    TEST(test_certificates);
    TEST(test_pinning);
    TEST(test_tokens);
    TEST(test_book);
    TEST(test_hello);
    TEST(test_beats);
    TEST(test_notices);
    help_remove_folder(dir);
    return TEST_RESULT();
}
