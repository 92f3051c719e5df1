/* TLS 1.2 and 1.3 contexts on OpenSSL: what is taken, what is shown, whom one believes. The caller frees a context with
 * SSL_CTX_free() once nothing uses it any more (an SSL holds its own reference). Reads files (blocks): start, `check`
 * and reload only. A listener whose files may be replaced while it serves is a tls_door (base/tls_door.h). */
#ifndef BASE_TLS_H
#define BASE_TLS_H

#include <openssl/ssl.h>

#include "base/error.h"

/* Must a client show a certificate of its own? OPTIONAL: it may; a bad one ends the connection all the same. */
enum tls_client_certs { TLS_CLIENT_CERTS_OFF, TLS_CLIENT_CERTS_OPTIONAL, TLS_CLIENT_CERTS_REQUIRED };

struct tls_server_files {  /* all PEM, borrowed */
    const char *cert;      /* the chain, leaf first */
    const char *key;       /* of the leaf, not encrypted */
    const char *client_ca; /* who signs the certificates of clients; NULL only with OFF */
    enum tls_client_certs client_certs;
    /* Which of them are withdrawn; NULL: nobody asks. One list at least of each authority in a client's chain: whose
     * chain has one without a list, or with a list that has run out, is not let in. */
    const char *client_crl;
};
struct tls_client_files {   /* all PEM, borrowed */
    const char *ca;         /* whom to believe; NULL: the system's roots */
    const char *cert, *key; /* what is shown to a server that asks; both or neither */
};

/* For a listener. Errors name the file and what would be right; RC_INVALID when two files do not belong together. Its
 * sessions live in tickets that clients keep, not in our memory. */
enum rc tls_server_new(SSL_CTX **ctx, const struct tls_server_files *f, struct error *e) SPW_MUST_USE;
/* For connections out: the peer's chain is always verified. */
enum rc tls_client_new(SSL_CTX **ctx, const struct tls_client_files *f, struct error *e) SPW_MUST_USE;

/* The same for an authority that is known by its certificate's SHA-256 alone: the server sends that certificate along,
 * and no other is believed. Nothing is shown to it. The name is checked by tls_client_expect(), as ever. pin: borrowed,
 * outlives the context. */
#define TLS_PIN_BYTES 32
enum rc tls_client_pinned(SSL_CTX **ctx, const unsigned char pin[TLS_PIN_BYTES], struct error *e) SPW_MUST_USE;

/* Before the handshake: the server must be `name`, a host name (which it is also told, SNI) or an address. RC_INVALID:
 * that is none. */
enum rc tls_client_expect(SSL *ssl, const char *name, struct error *e) SPW_MUST_USE;

/* Keep the newest session that the server of `ssl` offers in *slot, which holds a reference (SSL_SESSION_free()) and
 * must outlive ssl; ssl of a context of tls_client_new(). tls_client_connected(), called when the handshake is done,
 * says whether an earlier session went on. */
void tls_client_keep_session(SSL *ssl, SSL_SESSION **slot);
bool tls_client_connected(SSL *ssl);

/* How long a session may be resumed, after which both sides show their certificates again. */
#define TLS_SESSION_S 3600

#endif
