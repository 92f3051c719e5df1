/* TLS 1.2 and 1.3 contexts on OpenSSL. The caller frees a context with SSL_CTX_free() once nothing uses it any more.
 * Reads files (blocks): start, `check` and reload only. */
#ifndef BASE_TLS_H
#define BASE_TLS_H

#include <openssl/ssl.h>

#include "base/error.h"

/* For a listener: the certificate chain and its private key, both PEM. Errors name the file and what would be right;
 * RC_INVALID when the two do not belong together. */
enum rc tls_server_new(SSL_CTX **ctx, const char *cert_file, const char *key_file, struct error *e) SPW_MUST_USE;
/* For connections out: the peer's chain is verified against ca_file, or the system's roots when NULL. */
enum rc tls_client_new(SSL_CTX **ctx, const char *ca_file, struct error *e) SPW_MUST_USE;

#endif
