#include "scheduler/join/tokens.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/sha256.h"
#include "scheduler/auth/base64url.h"

#define PREFIX      "spwj1."
#define VERSION     1
#define PROOF_BYTES 16
/* version, kind, issued, until, nonce; then the name, then the proof */
#define HEAD_BYTES (1 + 1 + 4 + 4 + 8)
#define RAW_MAX    (HEAD_BYTES + TOKEN_NAME_MAX + PROOF_BYTES)
#define HEX_DIGITS (2 * CERT_FINGERPRINT_BYTES)

static void put_u32(uint8_t *at, int64_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)((uint64_t)v >> (24 - 8 * i));
}

static int64_t get_u32(const uint8_t *at)
{
    return (int64_t)((uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]);
}

static void prove(const struct ca *ca, const uint8_t *raw, size_t n, uint8_t proof[PROOF_BYTES])
{
    uint8_t secret[32], whole[32];
    unsigned len = 0;
    ca_secret(ca, "join token", "", secret);
    SPW_ASSERT(HMAC(EVP_sha256(), secret, sizeof secret, raw, n, whole, &len) && len == sizeof whole);
    memcpy(proof, whole, PROOF_BYTES);
    explicit_bzero(secret, sizeof secret);
}

static void put_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

enum rc token_write(const struct ca *ca, const struct token *t, char out[TOKEN_TEXT_MAX], struct error *e)
{
    uint8_t raw[RAW_MAX];
    const size_t name = strlen(t->name), n = HEAD_BYTES + name;
    if (name == 0 || name >= TOKEN_NAME_MAX)
        return error_set(e, RC_INVALID, "a node's name has 1 to %d letters", TOKEN_NAME_MAX - 1);
    raw[0] = VERSION;
    raw[1] = (uint8_t)t->kind;
    put_u32(raw + 2, t->issued_s);
    put_u32(raw + 6, t->until_s);
    if (getrandom(raw + 10, 8, 0) != 8)
        return error_set(e, RC_IO, "no random bytes from the system");
    memcpy(raw + HEAD_BYTES, t->name, name);
    prove(ca, raw, n, raw + n);
    char *at = out + snprintf(out, TOKEN_TEXT_MAX, "%s", PREFIX);
    base64url_encode(raw, n + PROOF_BYTES, at);
    at += strlen(at);
    *at++ = '.';
    put_hex(ca_fingerprint(ca), CERT_FINGERPRINT_BYTES, at);
    return RC_OK;
}

static enum rc not_a_token(struct error *e)
{
    return error_set(e, RC_INVALID, "that is no join token; `spillway nodes token NAME` makes one");
}

static enum rc read_raw(const struct ca *ca, const uint8_t *raw, size_t n, struct token *t, struct error *e)
{
    uint8_t proof[PROOF_BYTES];
    if (n <= HEAD_BYTES + PROOF_BYTES || raw[0] != VERSION)
        return not_a_token(e);
    const size_t name = n - HEAD_BYTES - PROOF_BYTES;
    prove(ca, raw, n - PROOF_BYTES, proof);
    if (CRYPTO_memcmp(proof, raw + n - PROOF_BYTES, PROOF_BYTES) != 0)
        return error_set(e, RC_DENIED, "the token is not one of this scheduler's");
    if (name >= TOKEN_NAME_MAX || memchr(raw + HEAD_BYTES, '\0', name))
        return not_a_token(e);
    *t = (struct token){.kind = (enum token_kind)raw[1], .issued_s = get_u32(raw + 2), .until_s = get_u32(raw + 6)};
    memcpy(t->nonce, raw + 10, sizeof t->nonce);
    memcpy(t->name, raw + HEAD_BYTES, name);
    return t->kind == TOKEN_NODE || t->kind == TOKEN_POOL ? RC_OK : not_a_token(e);
}

enum rc token_read(const struct ca *ca, const char *text, int64_t now_s, struct token *t, struct error *e)
{
    const size_t n = strlen(text), prefix = strlen(PREFIX);
    char pin[HEX_DIGITS + 1];
    uint8_t raw[BASE64URL_BYTES(TOKEN_TEXT_MAX)];
    size_t len = 0;
    if (n >= TOKEN_TEXT_MAX || strncmp(text, PREFIX, prefix) != 0)
        return not_a_token(e);
    const char *body = text + prefix, *dot = strchr(body, '.');
    if (!dot || strlen(dot + 1) != HEX_DIGITS || !base64url_decode(body, (size_t)(dot - body), raw, &len))
        return not_a_token(e);
    put_hex(ca_fingerprint(ca), CERT_FINGERPRINT_BYTES, pin);
    if (strcmp(pin, dot + 1) != 0)
        return error_set(e, RC_DENIED, "the token is another scheduler's");
    enum rc rc = read_raw(ca, raw, len, t, e);
    if (rc == RC_OK && t->until_s <= now_s)
        rc = error_set(e, RC_DENIED, "the token has run out; make another one");
    if (rc == RC_OK)
        sha256(text, n, t->hash);
    return rc;
}
