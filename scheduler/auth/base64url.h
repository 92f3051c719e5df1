/* base64url without padding (RFC 4648, section 5), the one canonical form: no other letters, no blanks, no padding, no
 * left-over bits, so that two different texts never mean the same bytes. */
#ifndef SCHEDULER_AUTH_BASE64URL_H
#define SCHEDULER_AUTH_BASE64URL_H

#include <stdbool.h>
#include <stddef.h>

#define BASE64URL_BYTES(n) ((n) / 4 * 3 + 2) /* enough for n characters */

/* out holds BASE64URL_BYTES(n). False: not canonical. n 0: no bytes. */
bool base64url_decode(const char *text, size_t n, unsigned char *out, size_t *len);
void base64url_encode(const unsigned char *bytes, size_t n, char *out); /* out: n * 4 / 3 + 3 bytes; NUL-terminated */

#endif
