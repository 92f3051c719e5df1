/* Keys and certificates of our own making (EC P-256, X.509 v3): what a scheduler's own authority signs with, and what
 * an engine asks it for. Times are Unix seconds. No files, no clock; any thread. Objects of OpenSSL are freed by its
 * calls. */
#ifndef BASE_CERT_H
#define BASE_CERT_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "base/alloc.h"

#define CERT_NAME_MAX 192 /* bytes of a name with its NUL */
/* A node's certificate begins so long before it is given, for clocks that are slow. */
#define CERT_BACKDATE_S 300

enum rc cert_key_new(EVP_PKEY **key, struct error *e) SPW_MUST_USE;
enum rc cert_key_read(EVP_PKEY **key, const char *pem, size_t n, struct error *e) SPW_MUST_USE;
enum rc cert_key_write(const EVP_PKEY *key, struct strbuf *pem, struct error *e) SPW_MUST_USE; /* appended */

struct cert_spec {
    const char *name; /* common name; of all but an authority also the one DNS name that it is for */
    int64_t from_s, until_s;
    bool authority; /* else it is good for servers and clients */
};
/* The certificate of `subject`, signed by by_key, whose certificate `by` is (NULL: its own). */
enum rc cert_sign(X509 **cert, const struct cert_spec *spec, EVP_PKEY *subject, const X509 *by, EVP_PKEY *by_key,
                  struct error *e) SPW_MUST_USE;
enum rc cert_read(X509 **cert, const char *pem, size_t n, struct error *e) SPW_MUST_USE; /* the first in the text */
enum rc cert_write(const X509 *cert, struct strbuf *pem, struct error *e) SPW_MUST_USE;  /* appended */

/* A request for a certificate (PKCS #10, PEM). It holds the public key and the proof that one has the private one; the
 * name is for the authority to say. Reading checks the proof, and that it is a key of our kind. */
enum rc cert_request_write(EVP_PKEY *key, struct strbuf *pem, struct error *e) SPW_MUST_USE;
enum rc cert_request_read(EVP_PKEY **key, const char *pem, size_t n, struct error *e) SPW_MUST_USE;

bool cert_name(const X509 *cert, char *name, size_t size); /* its first DNS name; false: it has none, or a longer one */
bool cert_is_for(const X509 *cert, const char *name);
int64_t cert_from_s(const X509 *cert);
int64_t cert_until_s(const X509 *cert);
#define CERT_FINGERPRINT_BYTES 32
void cert_fingerprint(const X509 *cert, uint8_t out[CERT_FINGERPRINT_BYTES]); /* SHA-256 of all of it */

#endif
