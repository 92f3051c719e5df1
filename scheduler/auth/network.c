#include "scheduler/auth/network.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/text.h"

static bool parse_address(const char *text, uint8_t address[16], bool *v4)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    *v4 = strchr(text, ':') == NULL;
    if (!*v4)
        return inet_pton(AF_INET6, text, address) == 1;
    memcpy(address, mapped, sizeof mapped);
    return inet_pton(AF_INET, text, address + 12) == 1;
}

static bool bit_of(const uint8_t address[16], int i)
{
    return address[i / 8] >> (7 - i % 8) & 1;
}

enum rc network_parse(const char *text, struct network *n, struct error *e)
{
    char address[64];
    size_t len = strcspn(text, "/");
    int64_t bits;
    bool v4;

    if (len >= sizeof address)
        return error_set(e, RC_INVALID, "\"%.60s\" is no network; write 10.0.0.0/8 or 2001:db8::/32", text);
    memcpy(address, text, len);
    address[len] = '\0';
    if (!parse_address(address, n->address, &v4))
        return error_set(e, RC_INVALID, "\"%.60s\" is no network; write 10.0.0.0/8 or 2001:db8::/32", text);
    bits = v4 ? 32 : 128;
    if (text[len] == '/' && text_parse_int(text + len + 1, 0, bits, &bits) != RC_OK)
        return error_set(e, RC_INVALID, "\"%.60s\": the prefix length is 0 to %d", text, v4 ? 32 : 128);
    n->bits = (uint8_t)(v4 ? 96 + bits : bits);
    for (int i = n->bits; i < 128; i++)
        if (bit_of(n->address, i))
            return error_set(e, RC_INVALID, "\"%.60s\" has bits set behind its prefix; set them to 0", text);
    return RC_OK;
}

static bool contains(const struct network *n, const uint8_t address[16])
{
    int whole = n->bits / 8, rest = n->bits % 8;
    if (memcmp(n->address, address, (size_t)whole) != 0)
        return false;
    return rest == 0 || ((n->address[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

bool network_allows(const struct network *networks, int n, const char *peer)
{
    uint8_t address[16];
    char text[64];
    bool v4;

    if (n == 0)
        return true;
    if (!peer || strlen(peer) >= sizeof text)
        return false;
    memcpy(text, peer, strlen(peer) + 1);
    text[strcspn(text, "%")] = '\0'; /* the zone of a link-local address says which interface, not who */
    if (!parse_address(text, address, &v4))
        return false;
    for (int i = 0; i < n; i++)
        if (contains(&networks[i], address))
            return true;
    return false;
}
