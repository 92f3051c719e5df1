/* Proves that a listener's certificate and key are loaded when they fit, that each way in which they do not says so, and
 * that a client believes the certificate it was given for the right name and no other.
 * links: spw_base spw_sched_config */
#include "tests/unit/test.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/tls.h"
#include "scheduler/config/config.h"

static char dir[64], cert[96], key[96], other_key[96], text[96];

static EVP_PKEY *write_key(const char *path)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    FILE *f = fopen(path, "w");

    CHECK(k && f && PEM_write_PrivateKey(f, k, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(f);
    return k;
}

/* Self-signed, for the name "localhost", an hour long. */
static void write_cert(const char *path, EVP_PKEY *k)
{
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);
    FILE *f = fopen(path, "w");

    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, k);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509_EXTENSION *san = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:localhost");
    X509_add_ext(x, san, -1);
    X509_EXTENSION_free(san);
    CHECK(X509_sign(x, k, EVP_sha256()) != 0);
    CHECK(f && PEM_write_X509(f, x) == 1);
    fclose(f);
    X509_free(x);
}

static void make_files(void)
{
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    snprintf(other_key, sizeof other_key, "%s/other.pem", dir);
    snprintf(text, sizeof text, "%s/text.pem", dir);
    EVP_PKEY *k = write_key(key);
    write_cert(cert, k);
    EVP_PKEY_free(k);
    EVP_PKEY_free(write_key(other_key));
    FILE *f = fopen(text, "w");
    fputs("not PEM\n", f);
    fclose(f);
}

static enum rc open_server(const char *c, const char *k, struct error *e)
{
    SSL_CTX *ctx = NULL;
    enum rc rc = tls_server_new(&ctx, c, k, e);

    CHECK((rc == RC_OK) == (ctx != NULL));
    SSL_CTX_free(ctx);
    return rc;
}

static void test_pairs(void)
{
    struct error e;

    CHECK(open_server(cert, key, &e) == RC_OK);
    CHECK(open_server(cert, other_key, &e) == RC_INVALID && strstr(e.message, other_key));
    CHECK(open_server(text, key, &e) == RC_INVALID && strstr(e.message, "no certificate chain"));
    CHECK(open_server(cert, text, &e) == RC_INVALID && strstr(e.message, "no unencrypted private key"));
    CHECK(open_server("/no/such", key, &e) == RC_IO && strstr(e.message, "No such file"));
    CHECK(open_server(dir, key, &e) == RC_INVALID && strstr(e.message, "not a file"));
    SSL_CTX *ctx = NULL;
    CHECK(tls_client_new(&ctx, text, &e) == RC_INVALID && ctx == NULL);
}

static void test_in_configuration(void)
{
    struct strbuf problems;
    struct config *c = NULL;
    char yaml[512];

    strbuf_init(&problems, 4096);
    snprintf(yaml, sizeof yaml,
             "auth: off\ntls: {cert: %s, key: %s}\nnodes: [{name: a, url: 'http://h', models: [m]}]\n", cert, key);
    CHECK(config_parse(&c, yaml, strlen(yaml), "f", &problems) == RC_OK);
    config_free(c);
    snprintf(yaml, sizeof yaml,
             "auth: off\ntls: {cert: %s, key: %s}\nnodes: [{name: a, url: 'http://h', models: [m]}]\n", cert,
             other_key);
    CHECK(config_parse(&c, yaml, strlen(yaml), "f", &problems) == RC_INVALID);
    CHECK(problems.data && strncmp(problems.data, "f:2: tls.cert: ", 15) == 0);
    strbuf_fini(&problems);
}

/* Shake hands in memory. True: both sides are done. */
static bool shake(SSL *client, SSL *server)
{
    BIO *a = NULL, *b = NULL;
    int done = 0;

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
    return done == 3;
}

static bool connects(const char *ca, const char *name, int max_version)
{
    SSL_CTX *s_ctx = NULL, *c_ctx = NULL;
    struct error e;

    CHECK(tls_server_new(&s_ctx, cert, key, &e) == RC_OK);
    CHECK(tls_client_new(&c_ctx, ca, &e) == RC_OK);
    SSL *server = SSL_new(s_ctx), *client = SSL_new(c_ctx);
    if (max_version) {
        SSL_set_min_proto_version(client, 0);
        SSL_set_max_proto_version(client, max_version);
    }
    SSL_set1_host(client, name);
    bool ok = shake(client, server);
    SSL_free(server);
    SSL_free(client);
    SSL_CTX_free(s_ctx);
    SSL_CTX_free(c_ctx);
    return ok;
}

static void test_handshake(void)
{
    CHECK(connects(cert, "localhost", 0));
    CHECK(connects(cert, "localhost", TLS1_2_VERSION));
    CHECK(!connects(cert, "localhost", TLS1_1_VERSION));
    CHECK(!connects(cert, "example.com", 0));
    CHECK(!connects(NULL, "localhost", 0)); /* no authority of the system signed it */
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/spw-tls-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    make_files();
    TEST(test_pairs);
    TEST(test_in_configuration);
    TEST(test_handshake);
    unlink(cert);
    unlink(key);
    unlink(other_key);
    unlink(text);
    rmdir(dir);
    return TEST_RESULT();
}
