/* The scheduler's own authority: a key that never leaves the state folder, and certificates that it gives to nodes that
 * join. Nothing else believes it, and it believes nobody else's.
 *
 *   DIR/ca.key         its private key (mode 0600), made at first use
 *   DIR/ca.pem         its certificate; CA_YEARS long
 *   DIR/scheduler.pem  what the scheduler shows to nodes, as their server and as their client: certificate, authority and
 *                      key (0600). As long as the authority's: its key lies beside that one, so a short life would help
 *                      nobody
 *
 * Nodes get short ones, and renew them over the old one. A certificate says one name: NAME.node.spillway for a node,
 * scheduler.spillway for the scheduler. Addresses change, names don't: each side checks the other's name whatever the
 * address was. A node's certificate is good for both directions, but a node takes orders from the scheduler's name
 * alone.
 *
 * ca_open() reads and writes files (blocks); the rest computes. One thread at a time. */
#ifndef SCHEDULER_JOIN_CA_H
#define SCHEDULER_JOIN_CA_H

#include "base/cert.h"

#define CA_YEARS          10
#define CA_SCHEDULER_NAME "scheduler.spillway"
#define CA_NODE_SUFFIX    ".node.spillway"

struct ca;
/* RC_INVALID: a file is damaged, or may be read by others; the text says which. Missing ones are made; an authority
 * that is new makes the old nodes' certificates and tokens worthless. */
enum rc ca_open(struct ca **ca, const char *dir, int64_t now_s, struct error *e) SPW_MUST_USE;
void ca_free(struct ca *ca); /* NULL is fine */
/* For the node of this name, for so long from now on; request: of cert_request_write(). PEM, appended. */
enum rc ca_issue(struct ca *ca, const char *node, const char *request, size_t n, int64_t now_s, int64_t life_s,
                 struct strbuf *pem, struct error *e) SPW_MUST_USE;
/* SHA-256 of the public key in a request. */
enum rc ca_request_hash(const char *request, size_t n, uint8_t hash[CERT_FINGERPRINT_BYTES],
                        struct error *e) SPW_MUST_USE;
const char *ca_pem(const struct ca *ca);            /* its certificate */
const char *ca_file(const struct ca *ca);           /* the same as a path */
const char *ca_scheduler_file(const struct ca *ca); /* of what the scheduler shows */
const uint8_t *ca_fingerprint(const struct ca *ca); /* CERT_FINGERPRINT_BYTES */
/* A secret of the authority's for `purpose`: derived from its key (HMAC-SHA-256), the same after each start. */
void ca_secret(const struct ca *ca, const char *purpose, const char *name, uint8_t out[32]);

/* The node's name of a certificate; false: it is no node's. */
bool ca_node_of(const X509 *cert, char *node, size_t size);
/* When it was given. */
int64_t ca_issued_s(const X509 *cert);

#endif
