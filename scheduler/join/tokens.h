/* One-time tokens that let an engine join, and which certificates are worth nothing any more.
 *
 * A token says for which node (or pool) it is, and until when; the authority's secret proves it (HMAC), so that making
 * one writes nothing and nothing on disk can be turned into one. What is used is written down by its hash, durably,
 * before a certificate is given for it, and stays until it would have run out; so it works once, also across a restart.
 * A repeat by the very same key (the answer was lost on its way) is the same use.
 *
 *   spwj1.<base64url: version, kind, issued, expires, nonce, name, proof>.<64 hex digits: SHA-256 of the authority>
 *
 * The last part is for the engine: it believes that authority and nobody else, without having known it before. At most
 * TOKEN_TEXT_MAX - 1 bytes, which fits a tag of a cloud's.
 *
 * The book is a text file of lines that only grows while it is open, and is written anew by book_open():
 *   used HASH KEYHASH UNTIL          revoked NAME ISSUED_UNTIL FORGET_AT
 * A last line that was cut off by a crash is not looked at. Lookups are in memory and may come from any one thread;
 * book_write() (which blocks) from another one. */
#ifndef SCHEDULER_JOIN_TOKENS_H
#define SCHEDULER_JOIN_TOKENS_H

#include "scheduler/join/ca.h"

#define TOKEN_TEXT_MAX   256
#define TOKEN_NAME_MAX   65
#define BOOK_USED_MAX    4096 /* tokens that were used and have not run out; more: RC_FULL */
#define BOOK_REVOKED_MAX 4096

enum token_kind { TOKEN_NODE = 'n', TOKEN_POOL = 'p' };
struct token {
    enum token_kind kind;
    char name[TOKEN_NAME_MAX]; /* of the node or pool */
    int64_t issued_s, until_s;
    uint8_t nonce[8];
    uint8_t hash[32]; /* of the text: what the book knows it by */
};

/* *t: kind, name, issued_s and until_s. */
enum rc token_write(const struct ca *ca, const struct token *t, char out[TOKEN_TEXT_MAX], struct error *e) SPW_MUST_USE;
/* RC_INVALID: it is none. RC_DENIED: not one of this authority's, or it has run out. */
enum rc token_read(const struct ca *ca, const char *text, int64_t now_s, struct token *t, struct error *e) SPW_MUST_USE;

struct book;
/* Reads the file, forgets what is out of date, writes it anew (blocks). */
enum rc book_open(struct book **b, const char *path, int64_t now_s, struct error *e) SPW_MUST_USE;
void book_close(struct book *b);
/* RC_OK: it is free, and is this key's from now on, or was already (*again: then nothing needs to be written).
 * RC_DENIED: somebody else used it. RC_AGAIN: it is this key's, but that is not on disk yet. RC_FULL. */
enum rc book_use(struct book *b, const struct token *t, const uint8_t key_hash[32], int64_t now_s, bool *again,
                 struct error *e) SPW_MUST_USE;
void book_unuse(struct book *b, const struct token *t); /* it could not be written */
void book_used(struct book *b, const struct token *t);  /* it was */
/* Certificates and tokens of the node that were given at or before issued_until_s are worth nothing; forget_s: when
 * none of them can be alive any more. */
enum rc book_revoke(struct book *b, const char *name, int64_t issued_until_s, int64_t forget_s, int64_t now_s,
                    struct error *e) SPW_MUST_USE;
bool book_is_revoked(const struct book *b, const char *name, int64_t issued_s);
/* The lines of a use or a revocation, for book_write(). */
void book_use_line(const struct token *t, const uint8_t key_hash[32], struct strbuf *out);
void book_revoke_line(const char *name, int64_t issued_until_s, int64_t forget_s, struct strbuf *out);
/* Appended and flushed. Any thread, one at a time. */
enum rc book_write(struct book *b, const char *lines, size_t n, struct error *e) SPW_MUST_USE;

#endif
