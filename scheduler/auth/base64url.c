#include "scheduler/auth/base64url.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool base64url_decode(const char *text, size_t n, unsigned char *out, size_t *len)
{
    unsigned bits = 0;
    int held = 0;

    *len = 0;
    for (size_t i = 0; i < n; i++) {
        int v = value_of(text[i]);
        if (v < 0)
            return false;
        bits = (bits << 6 | (unsigned)v) & 0xffff;
        held += 6;
        if (held >= 8) {
            held -= 8;
            out[(*len)++] = (unsigned char)(bits >> held);
        }
    }
    /* One character alone holds no byte; what is left over must be zeros. */
    return n % 4 != 1 && (bits & ((1u << held) - 1)) == 0;
}

void base64url_encode(const unsigned char *bytes, size_t n, char *out)
{
    unsigned bits = 0;
    int held = 0;

    for (size_t i = 0; i < n; i++) {
        bits = (bits << 8 | bytes[i]) & 0xffff;
        for (held += 8; held >= 6; held -= 6)
            *out++ = alphabet[bits >> (held - 6) & 63];
    }
    if (held)
        *out++ = alphabet[bits << (6 - held) & 63];
    *out = '\0';
}
