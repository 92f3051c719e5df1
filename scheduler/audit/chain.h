/* The audit chain as bytes: what a record looks like, what links it to the one before, what is signed. Pure but for the
 * key files; docs/AUDIT.md tells the same to auditors, with the commands to check it by hand.
 *
 * A chain is a folder of segments, "000001-20261129.audit" (number, UTC day of its first record). A segment is text, a
 * record a line:
 *
 *     SEQ HASH MAC JSON\n
 *
 *     SEQ   decimal, from 1, one more for each record of the chain, whatever the segment
 *     JSON  what is recorded, an object on one line; its first member is "k", the kind
 *     C     (not written) SHA-256 of JSON, in hex
 *     MAC   the first 16 bytes of HMAC-SHA-256(mac key, "SEQ C"), hex: only who has the signing key can make one, so that
 *           the operator can tell exactly which record somebody else has written
 *     HASH  SHA-256 of "PREV SEQ MAC C", hex, where PREV is the HASH of the record before; 64 zeros for record 1
 *
 * C instead of JSON in the link: a path from one record to a signed head shows nothing of the records between.
 *
 * Kinds that make the chain itself; all others are in record.h:
 *     segment  first of each segment: {"k":"segment","t":...,"v":1,"chain":ID,"segment":N,"prev":HASH,"key":PUBLIC}
 *              prev: the hash of the record before, once more; key: base64 of the 32 bytes of the Ed25519 public key
 *     seal     last of each group commit: {"k":"seal","t":TIME,"sig":BASE64}; sig is Ed25519 over head_message() of the
 *              record before it, with this TIME. Who has verified one seal has verified every record before it.
 *
 * A record counts as durable once its group's seal is on the disk. What stands behind the last seal after a crash was
 * promised to nobody: store.h says what becomes of it. */
#ifndef SCHEDULER_AUDIT_CHAIN_H
#define SCHEDULER_AUDIT_CHAIN_H

#include <openssl/evp.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "scheduler/audit/hmac.h"

#define AUDIT_VERSION        1
#define AUDIT_HASH_DIGITS    64
#define AUDIT_MAC_BYTES      16
#define AUDIT_CHAIN_DIGITS   32 /* of a chain's id: 16 random bytes in hex */
#define AUDIT_PUBLIC_BYTES   32
#define AUDIT_SIG_BYTES      64
#define AUDIT_JSON_BYTES_MAX 65536                        /* of one record */
#define AUDIT_LINE_BYTES_MAX (AUDIT_JSON_BYTES_MAX + 128) /* with its newline */

struct audit_hash {
    uint8_t b[HMAC_BYTES];
};
bool audit_unhex(const char *text, uint8_t *out,
                 size_t n); /* exactly 2 n lower-case digits at text; what follows is not looked at */

struct audit_line {
    int64_t seq;
    struct audit_hash hash;
    uint8_t mac[AUDIT_MAC_BYTES];
    const char *json; /* in the text that was parsed */
    size_t n;
};
/* text: n bytes without the newline. False: this is no record. */
bool audit_line_parse(const char *text, size_t n, struct audit_line *l);

/* ---- links --------------------------------------------------------------------------------------------------------- */

struct audit_hash audit_content(const char *json, size_t n); /* C */
void audit_mac(const struct hmac_key *mac_key, int64_t seq, const struct audit_hash *content,
               uint8_t out[AUDIT_MAC_BYTES]);
struct audit_hash audit_link(const struct audit_hash *prev, int64_t seq, const uint8_t mac[AUDIT_MAC_BYTES],
                             const struct audit_hash *content);
/* Appends the next record, newline and all, and moves *seq and *prev on. RC_FULL: out's bound; nothing has changed. */
enum rc audit_line_write(const struct hmac_key *mac_key, const char *json, size_t n, int64_t *seq,
                         struct audit_hash *prev, struct strbuf *out) SPW_MUST_USE;

/* ---- keys ---------------------------------------------------------------------------------------------------------- */

/* One Ed25519 key per scheduler, in a PEM file that `openssl pkey` reads; mode 0600, made at the first start. From it also
 * come the key of the MACs, and that of the bodies of each tenant, so that there is one secret to keep:
 *     mac key     HMAC-SHA-256(the 32 secret bytes, "spillway audit mac v1")
 *     tenant key  HMAC-SHA-256(the 32 secret bytes, "spillway audit bodies v1\n" TENANT)
 * A tenant's key tells nothing of the others. Who has lost the file can still verify with the public part, and can begin
 * another chain; this one cannot go on. */
struct audit_keys {
    EVP_PKEY *sign;   /* owned; NULL: the public part alone is known */
    EVP_PKEY *verify; /* owned */
    uint8_t public_part[AUDIT_PUBLIC_BYTES];
    struct hmac_key mac, tenants; /* where sign is known */
};
enum audit_key_use { AUDIT_KEY_MAKE, AUDIT_KEY_READ };
/* RC_NOT_FOUND: there is none (READ). Blocks. */
enum rc audit_keys_load(struct audit_keys *k, const char *path, enum audit_key_use use, struct error *e) SPW_MUST_USE;
/* A public key, PEM, as audit_keys_public_pem() writes it; or a private one, of which only the public part is taken. */
enum rc audit_keys_load_public(struct audit_keys *k, const char *path, struct error *e) SPW_MUST_USE;
enum rc audit_keys_from_public(struct audit_keys *k, const uint8_t bytes[AUDIT_PUBLIC_BYTES]) SPW_MUST_USE;
void audit_keys_fini(struct audit_keys *k); /* {0} is fine */
enum rc audit_keys_public_pem(const struct audit_keys *k, struct strbuf *out) SPW_MUST_USE;
/* "sha256:..." of the 32 public bytes: what people compare. out: 72 bytes. */
char *audit_keys_fingerprint(const struct audit_keys *k, char *out);
void audit_tenant_key(const struct audit_keys *k, const char *tenant, uint8_t out[HMAC_BYTES]);

/* ---- heads --------------------------------------------------------------------------------------------------------- */

struct audit_head {
    char chain[AUDIT_CHAIN_DIGITS + 1];
    int64_t seq; /* of the record that it is the hash of; 0: there is none yet */
    struct audit_hash hash;
    char time[32]; /* as wall_format() writes it */
    uint8_t sig[AUDIT_SIG_BYTES];
    uint8_t public_part[AUDIT_PUBLIC_BYTES];
};
#define AUDIT_MESSAGE_BYTES 256
/* What is signed: "spillway audit head v1\nchain ID\nseq N\nhash H\ntime T\n". Returns its length. */
size_t audit_head_message(const struct audit_head *h, char out[AUDIT_MESSAGE_BYTES]);
enum rc audit_head_sign(struct audit_head *h, const struct audit_keys *k) SPW_MUST_USE;
bool audit_head_verify(const struct audit_head *h, const struct audit_keys *k);
/* One line of JSON without newline: {"chain":..,"seq":..,"hash":..,"time":..,"key":base64,"sig":base64}. */
enum rc audit_head_write(const struct audit_head *h, struct strbuf *out) SPW_MUST_USE;
enum rc audit_head_read(struct audit_head *h, const char *text, size_t n, struct error *e) SPW_MUST_USE;

/* The seal that follows head h, as JSON. */
enum rc audit_seal_write(const struct audit_head *h, struct strbuf *out) SPW_MUST_USE;
/* Is this record a seal? Its time and signature, if it is one; chain, seq and hash of *h are the caller's business. */
bool audit_seal_read(const char *json, size_t n, struct audit_head *h);

struct audit_segment {
    char chain[AUDIT_CHAIN_DIGITS + 1];
    int64_t number;
    struct audit_hash prev;
    uint8_t public_part[AUDIT_PUBLIC_BYTES];
};
enum rc audit_segment_write(const struct audit_segment *s, struct wall now, struct strbuf *out) SPW_MUST_USE;
bool audit_segment_read(const char *json, size_t n, struct audit_segment *s);

#endif
