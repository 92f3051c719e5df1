/* Proves that a listener's certificate and key are loaded when they fit, that each way in which they do not says so;
 * that a client believes the certificate it was given for the right name and no other; that clients' certificates are
 * asked for and checked; and that a door's files are replaced while sessions live on, unless something else is asked of
 * clients now, and at whatever moment.
 * links: spw_base spw_sched_config */
#include "tests/unit/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/tls_door.h"
#include "scheduler/config/config.h"
#include "tests/unit/folder_help.h"
#include "tests/unit/tls_make.h"

static char dir[64], cert[96], key[96], other_key[96], text[96];
static char ca[96], ca_key[96], client_cert[96], client_key[96], stranger_cert[96], stranger_key[96];

static void make_files(void)
{
    const struct {
        char *path;
        const char *name;
    } all[] = {{cert, "cert"},
               {key, "key"},
               {other_key, "other"},
               {text, "text"},
               {ca, "ca"},
               {ca_key, "ca_key"},
               {client_cert, "client"},
               {client_key, "client_key"},
               {stranger_cert, "alien"},
               {stranger_key, "alien_key"}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        snprintf(all[i].path, sizeof cert, "%s/%s.pem", dir, all[i].name);
    tls_write_pair(cert, key, "localhost", "DNS:localhost", NULL);
    EVP_PKEY_free(tls_write_key(other_key));
    struct tls_maker authority = tls_make_authority(ca, ca_key, "our clients");
    tls_write_pair(client_cert, client_key, "client", "DNS:client.test", &authority);
    tls_maker_free(&authority);
    tls_write_pair(stranger_cert, stranger_key, "stranger", "DNS:client.test", NULL);
    FILE *f = fopen(text, "w");
    fputs("not PEM\n", f);
    fclose(f);
}

static enum rc open_server(const char *c, const char *k, const char *client_ca, struct error *e)
{
    SSL_CTX *ctx = NULL;
    const struct tls_server_files f = {c, k, client_ca, client_ca ? TLS_CLIENT_CERTS_REQUIRED : TLS_CLIENT_CERTS_OFF,
                                       NULL};
    enum rc rc = tls_server_new(&ctx, &f, e);

    CHECK((rc == RC_OK) == (ctx != NULL));
    SSL_CTX_free(ctx);
    return rc;
}

static void test_pairs(void)
{
    struct error e;

    CHECK(open_server(cert, key, NULL, &e) == RC_OK);
    CHECK(open_server(cert, other_key, NULL, &e) == RC_INVALID && strstr(e.message, other_key));
    CHECK(open_server(text, key, NULL, &e) == RC_INVALID && strstr(e.message, "no certificate chain"));
    CHECK(open_server(cert, text, NULL, &e) == RC_INVALID && strstr(e.message, "no unencrypted private key"));
    CHECK(open_server("/no/such", key, NULL, &e) == RC_IO && strstr(e.message, "No such file"));
    CHECK(open_server(dir, key, NULL, &e) == RC_INVALID && strstr(e.message, "not a file"));
    CHECK(open_server(cert, key, ca, &e) == RC_OK);
    CHECK(open_server(cert, key, text, &e) == RC_INVALID && strstr(e.message, text));
    SSL_CTX *ctx = NULL;
    CHECK(tls_client_new(&ctx, &(struct tls_client_files){.ca = text}, &e) == RC_INVALID && ctx == NULL);
    CHECK(tls_client_new(&ctx, &(struct tls_client_files){.ca = ca, .cert = cert, .key = other_key}, &e) ==
              RC_INVALID &&
          ctx == NULL);
}

static bool config_says(const char *yaml, const char *problem)
{
    struct strbuf problems;
    struct config *c = NULL;

    strbuf_init(&problems, 4096);
    enum rc rc = config_parse(&c, yaml, strlen(yaml), "f", &problems);
    bool ok = problem ? rc == RC_INVALID && problems.data && strstr(problems.data, problem) : rc == RC_OK;
    if (!ok)
        fprintf(stderr, "%s\n-> %s\n", yaml, problems.data ? problems.data : "nothing");
    config_free(c);
    strbuf_fini(&problems);
    return ok;
}

static void test_in_configuration(void)
{
    static const char nodes[] = "nodes: [{name: a, url: 'http://h', models: [m]}]\n";
    char yaml[1024];

    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s}\n%s", cert, key, nodes);
    CHECK(config_says(yaml, NULL));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s}\n%s", cert, other_key, nodes);
    CHECK(config_says(yaml, "f:2: tls.cert: "));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s, client_certs: required, client_ca: %s}\n%s", cert,
             key, ca, nodes);
    CHECK(config_says(yaml, NULL));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s, client_certs: required}\n%s", cert, key, nodes);
    CHECK(config_says(yaml, "f:2: tls.client_certs: needs tls.client_ca"));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s, client_ca: %s}\n%s", cert, key, ca, nodes);
    CHECK(config_says(yaml, "f:2: tls.client_ca: means nothing"));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s, client_crl: %s}\n%s", cert, key, text, nodes);
    CHECK(config_says(yaml, "f:2: tls.client_crl: means nothing while tls.client_certs is off"));
    snprintf(yaml, sizeof yaml,
             "auth: off\ntls: {cert: %s, key: %s, client_certs: optional, client_ca: %s, client_crl: %s}\n%s", cert,
             key, ca, text, nodes);
    CHECK(config_says(yaml, "text.pem: no list of withdrawn certificates (CRL) in PEM form"));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {client_certs: optional, client_ca: %s}\n%s", ca, nodes);
    CHECK(config_says(yaml, "f:2: tls.client_certs: certificates are shown over TLS alone"));
    snprintf(yaml, sizeof yaml, "auth: off\ntls: {cert: %s, key: %s, client_certs: required, client_ca: %s}\n%s", cert,
             key, text, nodes);
    CHECK(config_says(yaml, text));
}

static void test_node_configuration(void)
{
    char yaml[1024];
    const char *form = "auth: off\nnodes:\n  - {name: a, url: '%s', models: [m], tls: {%s%s%s%s}}\n";

    snprintf(yaml, sizeof yaml, form, "https://h", "ca: ", ca, "", "");
    CHECK(config_says(yaml, NULL));
    snprintf(yaml, sizeof yaml, form, "https://h", "cert: ", client_cert, ", key: ", client_key);
    CHECK(config_says(yaml, NULL));
    snprintf(yaml, sizeof yaml, form, "https://h", "server_name: api.test", "", "", "");
    CHECK(config_says(yaml, NULL));
    snprintf(yaml, sizeof yaml, form, "http://h", "ca: ", ca, "", "");
    CHECK(config_says(yaml, "f:3: nodes[0].tls.ca: means nothing unless url begins with https://"));
    snprintf(yaml, sizeof yaml, form, "https://h", "cert: ", client_cert, "", "");
    CHECK(config_says(yaml, "f:3: nodes[0].tls.cert: needs tls.key"));
    snprintf(yaml, sizeof yaml, form, "https://h", "key: ", client_key, "", "");
    CHECK(config_says(yaml, "f:3: nodes[0].tls.key: needs tls.cert"));
    snprintf(yaml, sizeof yaml, form, "https://h", "cert: ", client_cert, ", key: ", other_key);
    CHECK(config_says(yaml, other_key));
    snprintf(yaml, sizeof yaml, form, "https://h", "ca: ", text, "", "");
    CHECK(config_says(yaml, text));
    snprintf(yaml, sizeof yaml, form, "https://h", "server_name: 'a b'", "", "", "");
    CHECK(config_says(yaml, "not a host name"));
}

/* ---- handshakes in memory ----------------------------------------------------------------------------------------- */

/* True: both sides are done, and what the server still had to say (tickets) has arrived. */
static bool shake(SSL *client, SSL *server)
{
    BIO *a = NULL, *b = NULL;
    int done = 0;
    char byte;

    CHECK(BIO_new_bio_pair(&a, 0, &b, 0) == 1);
    SSL_set_bio(client, a, a);
    SSL_set_bio(server, b, b);
    SSL_set_connect_state(client);
    SSL_set_accept_state(server);
    for (int i = 0; i < 20 && done != 3; i++) {
        int c = SSL_do_handshake(client), s = SSL_do_handshake(server);
        done = (c == 1) | (s == 1) << 1;
        if ((c < 0 && SSL_get_error(client, c) == SSL_ERROR_SSL) ||
            (s < 0 && SSL_get_error(server, s) == SSL_ERROR_SSL))
            break;
    }
    if (done == 3)
        CHECK(SSL_read(client, &byte, 1) < 0 && SSL_read(server, &byte, 1) < 0);
    return done == 3;
}

struct visit {
    const char *ca, *name, *cert, *key;
    int max_version;
    const char *ciphers;
    const unsigned char *alpn;
    unsigned alpn_len;
    SSL_SESSION **session; /* to go on with, and then to be kept */
};

struct outcome {
    bool ok, resumed;
    long serial; /* of the certificate that was shown */
    int version;
};

static struct outcome visit(struct tls_door *d, const struct visit *v)
{
    SSL_CTX *ctx = NULL;
    struct error e;
    struct outcome o = {.ok = false};

    CHECK(tls_client_new(&ctx, &(struct tls_client_files){v->ca, v->cert, v->key}, &e) == RC_OK);
    SSL *server = tls_door_open(d), *client = SSL_new(ctx);
    if (v->max_version) {
        SSL_set_min_proto_version(client, 0);
        SSL_set_max_proto_version(client, v->max_version);
    }
    if (v->ciphers)
        CHECK(SSL_set_cipher_list(client, v->ciphers) == 1);
    if (v->alpn)
        SSL_set_alpn_protos(client, v->alpn, v->alpn_len);
    SSL_set1_host(client, v->name ? v->name : "localhost");
    if (v->session) {
        tls_client_keep_session(client, v->session);
        if (*v->session)
            CHECK(SSL_set_session(client, *v->session) == 1);
    }
    o.ok = shake(client, server);
    o.resumed = o.ok && tls_client_connected(client);
    o.version = SSL_version(client);
    X509 *shown = o.ok ? SSL_get1_peer_certificate(client) : NULL;
    o.serial = shown ? ASN1_INTEGER_get(X509_get0_serialNumber(shown)) : 0;
    X509_free(shown);
    /* Else the session of a connection that ends so is taken for spoilt. */
    SSL_set_shutdown(client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(server);
    SSL_free(client);
    SSL_CTX_free(ctx);
    return o;
}

static struct tls_door *door_with(const char *client_ca, enum tls_client_certs certs, const struct clock *clock)
{
    struct tls_door *d = NULL;
    struct error e;

    CHECK(tls_door_new(&d, &(struct tls_server_files){cert, key, client_ca, certs, NULL}, clock, &e) == RC_OK);
    return d;
}

static void test_handshake(void)
{
    struct tls_door *d = door_with(NULL, TLS_CLIENT_CERTS_OFF, &clock_system);
    static const unsigned char h2[] = "\x02h2", both[] = "\x02h2\x08http/1.1";

    CHECK_INT(visit(d, &(struct visit){.ca = cert}).version, TLS1_3_VERSION);
    CHECK(visit(d, &(struct visit){.ca = cert, .max_version = TLS1_2_VERSION}).ok);
    CHECK(!visit(d, &(struct visit){.ca = cert, .max_version = TLS1_1_VERSION, .ciphers = "ALL:@SECLEVEL=0"}).ok);
    /* no forward secrecy, no authenticated encryption */
    CHECK(!visit(d, &(struct visit){.ca = cert, .max_version = TLS1_2_VERSION, .ciphers = "RSA+AES"}).ok);
    CHECK(!visit(d, &(struct visit){.ca = cert, .max_version = TLS1_2_VERSION, .ciphers = "ECDHE+AES:!AESGCM:!AESCCM"})
               .ok);
    CHECK(!visit(d, &(struct visit){.ca = cert, .name = "example.com"}).ok);
    CHECK(!visit(d, &(struct visit){.ca = NULL}).ok); /* no authority of the system signed it */
    CHECK(!visit(d, &(struct visit){.ca = cert, .alpn = h2, .alpn_len = sizeof h2 - 1}).ok);
    CHECK(visit(d, &(struct visit){.ca = cert, .alpn = both, .alpn_len = sizeof both - 1}).ok);
    tls_door_free(d);
}

static void test_client_certificates(void)
{
    const struct visit none = {.ca = cert}, good = {.ca = cert, .cert = client_cert, .key = client_key},
                       bad = {.ca = cert, .cert = stranger_cert, .key = stranger_key};
    struct tls_door *required = door_with(ca, TLS_CLIENT_CERTS_REQUIRED, &clock_system);
    struct tls_door *optional = door_with(ca, TLS_CLIENT_CERTS_OPTIONAL, &clock_system);

    CHECK(!visit(required, &none).ok && visit(required, &good).ok && !visit(required, &bad).ok);
    CHECK(visit(optional, &none).ok && visit(optional, &good).ok && !visit(optional, &bad).ok);
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) { /* resumed sessions keep it */
        struct visit again = good;
        SSL_SESSION *session = NULL;
        again.max_version = version;
        again.session = &session;
        CHECK(visit(required, &again).ok && visit(required, &again).resumed);
        SSL_SESSION_free(session);
    }
    tls_door_free(required);
    tls_door_free(optional);
}

static void append(const char *path, const char *from)
{
    FILE *in = fopen(from, "r"), *out = fopen(path, "a");
    CHECK(in && out);
    for (int c; (c = fgetc(in)) != EOF;)
        fputc(c, out);
    fclose(in);
    fclose(out);
}

/* An authority with an intermediate one below, which has signed two clients. */
static void test_withdrawn_certificates(void)
{
    char top_cert[96], path[96], below[96], crl[96], more[96], certs[2][96], keys[2][96];
    struct error e;
    snprintf(top_cert, sizeof top_cert, "%s/top.pem", dir);
    snprintf(path, sizeof path, "%s/unused.pem", dir);
    snprintf(below, sizeof below, "%s/below.pem", dir);
    snprintf(crl, sizeof crl, "%s/list.pem", dir);
    snprintf(more, sizeof more, "%s/more.pem", dir);
    struct tls_maker top = tls_make_authority(top_cert, path, "top"), mid = {.key = tls_write_key(path)};
    mid.cert = tls_write_cert(below, mid.key, "below", NULL, &top);
    X509 *clients[2];
    for (int i = 0; i < 2; i++) {
        snprintf(certs[i], sizeof certs[i], "%s/app%d.pem", dir, i);
        snprintf(keys[i], sizeof keys[i], "%s/app%d-key.pem", dir, i);
        EVP_PKEY *k = tls_write_key(keys[i]);
        clients[i] = tls_write_cert(certs[i], k, "app", "DNS:app.test", &mid);
        EVP_PKEY_free(k);
    }
    fclose(fopen(path, "w"));
    append(path, below); /* both are believed, so no client sends a chain */
    append(path, top_cert);

    const struct tls_server_files files = {cert, key, path, TLS_CLIENT_CERTS_REQUIRED, crl};
    struct tls_door *d = NULL;
    SSL_SESSION *session = NULL;
    const struct visit a = {.ca = cert, .cert = certs[0], .key = keys[0], .session = &session},
                       b = {.ca = cert, .cert = certs[1], .key = keys[1]};
    CHECK(tls_door_new(&d, &files, &clock_system, &e) == RC_IO && strstr(e.message, crl));
    tls_write_crl(crl, &mid, NULL, 3600);
    CHECK(tls_door_new(&d, &files, &clock_system, &e) == RC_OK);
    CHECK(!visit(d, &a).ok); /* nobody says whether the intermediate one is still good */

    tls_write_crl(more, &top, NULL, 3600);
    append(crl, more);
    CHECK(tls_door_stale(d) && tls_door_reread(d, &e) == RC_OK && !tls_door_stale(d));
    CHECK(visit(d, &a).ok && visit(d, &b).ok && visit(d, &a).resumed);
    tls_write_crl(crl, &mid, clients[0], 3600);
    append(crl, more);
    CHECK(tls_door_reread(d, &e) == RC_OK);
    CHECK(!visit(d, &a).ok && visit(d, &b).ok); /* its session does not help it */
    tls_write_crl(crl, &mid, NULL, -1);
    append(crl, more);
    CHECK(tls_door_reread(d, &e) == RC_OK && !visit(d, &b).ok); /* nobody knows what was withdrawn since */

    struct tls_maker stranger = tls_make_authority(path, more, "below"); /* of the same name */
    tls_write_crl(more, &stranger, NULL, 3600);
    struct tls_server_files forged = {cert, key, below, TLS_CLIENT_CERTS_REQUIRED, more};
    CHECK(tls_door_replace(d, &forged, &e) == RC_INVALID && strstr(e.message, "no authority of"));
    SSL_SESSION_free(session);
    tls_door_free(d);
    for (int i = 0; i < 2; i++)
        X509_free(clients[i]);
    tls_maker_free(&top);
    tls_maker_free(&mid);
    tls_maker_free(&stranger);
}

static void resume_over_replacements(int version)
{
    struct clock_manual storage = {0};
    struct clock clock = clock_manual(&storage);
    struct tls_door *d = door_with(NULL, TLS_CLIENT_CERTS_OFF, &clock);
    SSL_SESSION *session = NULL;
    const struct visit v = {.ca = cert, .session = &session, .max_version = version};
    struct error e;

    CHECK(visit(d, &v).ok && session);
    CHECK(visit(d, &v).resumed);
    CHECK(tls_door_reread(d, &e) == RC_OK);
    CHECK(visit(d, &v).resumed); /* a key from before the replacement */
    clock_advance(&storage, (TLS_SESSION_S + 1) * NS_PER_S);
    CHECK(visit(d, &v).resumed);
    SSL_SESSION *old = session;
    SSL_SESSION_up_ref(old);
    for (int i = 0; i < 3; i++)
        CHECK(tls_door_reread(d, &e) == RC_OK);
    SSL_SESSION_free(session);
    session = old;
    struct outcome o = visit(d, &v); /* its key is gone: from the beginning */
    CHECK(o.ok && !o.resumed);
    clock_advance(&storage, (2 * TLS_SESSION_S + 1) * NS_PER_S);
    o = visit(d, &v); /* nobody came for so long: no key from then is taken */
    CHECK(o.ok && !o.resumed);
    SSL_SESSION_free(session);
    tls_door_free(d);
}

static void test_tickets(void)
{
    resume_over_replacements(TLS1_2_VERSION);
    resume_over_replacements(TLS1_3_VERSION);
}

/* Who came in before certificates were demanded, or under an authority that is believed no more, begins anew. */
static void test_tickets_do_not_open_other_doors(void)
{
    struct tls_door *d = door_with(NULL, TLS_CLIENT_CERTS_OFF, &clock_system);
    SSL_SESSION *session = NULL;
    struct error e;

    CHECK(visit(d, &(struct visit){.ca = cert, .session = &session}).ok && session);
    CHECK(tls_door_replace(d, &(struct tls_server_files){cert, key, ca, TLS_CLIENT_CERTS_REQUIRED, NULL}, &e) == RC_OK);
    CHECK(!visit(d, &(struct visit){.ca = cert, .session = &session}).ok);
    SSL_SESSION_free(session);
    session = NULL;
    const struct visit good = {.ca = cert, .cert = client_cert, .key = client_key, .session = &session};
    CHECK(visit(d, &good).ok && visit(d, &good).resumed);
    CHECK(tls_door_replace(d, &(struct tls_server_files){cert, key, cert, TLS_CLIENT_CERTS_REQUIRED, NULL}, &e) ==
          RC_OK);
    CHECK(!visit(d, &good).ok);
    SSL_SESSION_free(session);
    tls_door_free(d);
}

static void test_replacement(void)
{
    struct tls_door *d = door_with(NULL, TLS_CLIENT_CERTS_OFF, &clock_system);
    const struct visit v = {.ca = cert};
    struct error e;
    char kept[128];

    long before = visit(d, &v).serial;
    CHECK(!tls_door_stale(d));
    SSL *open = tls_door_open(d); /* in the middle of its handshake */
    snprintf(kept, sizeof kept, "%s.new", cert);
    tls_write_pair(kept, other_key, "localhost", "DNS:localhost", NULL);
    CHECK(rename(kept, cert) == 0);
    CHECK(tls_door_stale(d));
    CHECK(tls_door_reread(d, &e) == RC_INVALID); /* the key is still the old one's */
    CHECK(tls_door_stale(d));
    CHECK(rename(other_key, key) == 0);
    CHECK(tls_door_reread(d, &e) == RC_OK && !tls_door_stale(d));
    long after = visit(d, &v).serial;
    CHECK(before && after && before != after);
    CHECK(unlink(cert) == 0 && tls_door_stale(d) && tls_door_reread(d, &e) == RC_IO);
    SSL_free(open);
    tls_door_free(d);
}

/* One file that is replaced all the time, as a renewed certificate is, by ones that fit themselves alone. */
struct replacer {
    struct strbuf pairs[2];
    char file[128];
    atomic_bool stop;
};

static void *replace_again_and_again(void *arg)
{
    struct replacer *r = arg;
    struct error e;
    for (int i = 0; !atomic_load(&r->stop); i++) {
        const struct strbuf *p = &r->pairs[i % 2];
        if (file_replace(r->file, 0600, p->data, p->len, &e) != RC_OK)
            return arg;
    }
    return NULL;
}

static void test_replaced_while_read(void)
{
    struct replacer r = {.stop = false};
    struct strbuf half;
    struct error e;
    pthread_t thread;
    void *failed;
    snprintf(r.file, sizeof r.file, "%s/both.pem", dir);
    for (int i = 0; i < 2; i++) {
        tls_write_pair(cert, key, "localhost", "DNS:localhost", NULL);
        CHECK(file_read(&r.pairs[i], cert, 65536, &e) == RC_OK && file_read(&half, key, 65536, &e) == RC_OK);
        CHECK(strbuf_append(&r.pairs[i], half.data, half.len) == RC_OK);
        strbuf_fini(&half);
    }
    CHECK(file_replace(r.file, 0600, r.pairs[0].data, r.pairs[0].len, &e) == RC_OK);
    CHECK(pthread_create(&thread, NULL, replace_again_and_again, &r) == 0);
    for (int i = 0; i < 300; i++)
        CHECK(open_server(r.file, r.file, NULL, &e) == RC_OK);
    atomic_store(&r.stop, true);
    CHECK(pthread_join(thread, &failed) == 0 && !failed);
    strbuf_fini(&r.pairs[0]);
    strbuf_fini(&r.pairs[1]);
    unlink(r.file);
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/spw-tls-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    make_files();
    TEST(test_pairs);
    TEST(test_in_configuration);
    TEST(test_node_configuration);
    TEST(test_handshake);
    TEST(test_client_certificates);
    TEST(test_withdrawn_certificates);
    TEST(test_tickets);
    TEST(test_tickets_do_not_open_other_doors);
    TEST(test_replacement);
    TEST(test_replaced_while_read);
    help_remove_folder(dir);
    return TEST_RESULT();
}
