#include "scheduler/audit/prove.h"
#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/audit/store.h"

#define PATH_BYTES_MAX ((size_t)16 << 20)

struct proof {
    char *json; /* owned; NULL: not found yet */
    int64_t seq, line;
    uint8_t mac[AUDIT_MAC_BYTES];
    struct audit_hash prev, hash; /* of the record before; of the last on the path */
    int64_t last;
    struct strbuf path; /* "SEQ MAC C\n" of each record behind it, up to the head */
    struct audit_head head;
    bool sealed;
};

static bool is_record_of(const struct audit_line *l, const char *needle)
{
    static const char kind[] = "{\"k\":\"request\",";

    return l->n > sizeof kind && memcmp(l->json, kind, sizeof kind - 1) == 0 &&
           memmem(l->json, l->n, needle, strlen(needle)) != NULL;
}

static enum rc add_to_path(struct proof *p, const struct audit_line *l)
{
    struct audit_hash c = audit_content(l->json, l->n);
    char mac[2 * AUDIT_MAC_BYTES + 1], content[AUDIT_HASH_DIGITS + 1];

    p->hash = audit_link(&p->hash, l->seq, l->mac, &c);
    p->last = l->seq;
    text_hex(mac, l->mac, sizeof l->mac);
    text_hex(content, c.b, sizeof c.b);
    return strbuf_printf(&p->path, "%" PRId64 " %s %s\n", l->seq, mac, content);
}

/* One line after the other. True: the proof is complete. */
static bool take(struct proof *p, const struct audit_line *l, const char *needle, int64_t line)
{
    if (!p->json && is_record_of(l, needle)) {
        struct audit_hash c = audit_content(l->json, l->n);
        p->json = spw_strndup(l->json, l->n);
        p->seq = p->last = l->seq;
        p->line = line;
        p->prev = p->hash;
        memcpy(p->mac, l->mac, sizeof p->mac);
        p->hash = audit_link(&p->prev, l->seq, l->mac, &c);
        return false;
    }
    if (!p->json) {
        p->hash = l->hash;
        return false;
    }
    p->head = (struct audit_head){.seq = p->last, .hash = p->hash};
    p->sealed = audit_seal_read(l->json, l->n, &p->head);
    return p->sealed || add_to_path(p, l) != RC_OK;
}

static enum rc search(struct proof *p, const char *path, const char *needle, struct error *e)
{
    FILE *f = fopen(path, "re");
    struct audit_segment first;
    char *text = NULL;
    size_t cap = 0;
    int64_t line = 0;
    ssize_t n;
    struct audit_line l;

    if (!f)
        return error_set(e, RC_IO, "audit: %s: %s", path, strerror(errno));
    while ((n = getline(&text, &cap, f)) > 0 && !p->sealed) {
        line++;
        if (text[n - 1] != '\n' || !audit_line_parse(text, (size_t)n - 1, &l))
            continue;
        if (line == 1 && audit_segment_read(l.json, l.n, &first)) {
            memcpy(p->head.chain, first.chain, sizeof first.chain);
            p->hash = first.prev;
        }
        if (take(p, &l, needle, line))
            break;
    }
    free(text);
    fclose(f);
    if (p->json && store_read_segment(path, &first, e) == RC_OK)
        memcpy(p->head.chain, first.chain, sizeof first.chain);
    return RC_OK;
}

/* ---- the script ------------------------------------------------------------------------------------------------------ */

static void print_base64(FILE *out, const uint8_t *bytes, int n)
{
    char text[128];

    EVP_EncodeBlock((unsigned char *)text, bytes, n);
    fputs(text, out);
}

static void print_script(FILE *out, const struct proof *p, const char *file, const struct audit_keys *keys,
                         const char *pem, const char *request_id)
{
    char prev[AUDIT_HASH_DIGITS + 1], mac[2 * AUDIT_MAC_BYTES + 1], message[AUDIT_MESSAGE_BYTES], print[80];

    text_hex(prev, p->prev.b, sizeof p->prev.b);
    text_hex(mac, p->mac, sizeof p->mac);
    audit_head_message(&p->head, message);
    fprintf(out,
            "#!/bin/sh\n"
            "# Proof that request %s stands in the audit of a Spillway scheduler as it is shown here.\n"
            "# To check it, run this file: it needs sha256sum and OpenSSL 1.1.1 or later, and nothing else.\n"
            "#\n"
            "# Record %" PRId64 " of chain %s (%s, line %" PRId64 ").\n"
            "# Public key %s: compare it with the one that you were given\n"
            "# when the chain was begun (`spillway audit key`), not with what stands here.\n"
            "# request_hmac and response_hmac are HMAC-SHA-256 of the bodies under the tenant's key; whoever has a "
            "body and\n"
            "# that key (`spillway audit key --tenant NAME`) checks it by\n"
            "#     openssl dgst -sha256 -mac HMAC -macopt hexkey:KEY body\n"
            "set -e\n"
            "work=$(mktemp -d); trap 'rm -rf \"$work\"' EXIT; cd \"$work\"\n"
            "sum() { sha256sum | cut -c1-64; }\n\n"
            "# 1. The record, and its SHA-256.\n"
            "record=$(cat <<'END_OF_RECORD'\n%s\nEND_OF_RECORD\n)\n"
            "c=$(printf '%%s' \"$record\" | sum)\n\n"
            "# 2. Its link: SHA-256 of \"PREVIOUS-HASH NUMBER MAC C\".\n"
            "h=$(printf '%%s %%s %%s %%s' %s %" PRId64 " %s \"$c\" | sum)\n\n",
            request_id, p->seq, p->head.chain, file, p->line, audit_keys_fingerprint(keys, print), p->json, prev,
            p->seq, mac);
    fprintf(out,
            "# 3. The records behind it, as number, MAC and SHA-256, up to the signed head.\n"
            "while read -r n mac c; do h=$(printf '%%s %%s %%s %%s' \"$h\" \"$n\" \"$mac\" \"$c\" | sum); done "
            "<<'END_OF_PATH'\n"
            "%sEND_OF_PATH\n\n"
            "# 4. The head that was signed, byte for byte.\n"
            "cat > head.txt <<'END_OF_HEAD'\n%sEND_OF_HEAD\n"
            "grep -qx \"hash $h\" head.txt || { echo 'FALSE: the path does not lead to this head'; exit 1; }\n\n"
            "# 5. Its signature (Ed25519).\n"
            "echo ",
            p->path.len ? p->path.data : "", message);
    print_base64(out, p->head.sig, AUDIT_SIG_BYTES);
    fprintf(out,
            " | openssl base64 -d -A > head.sig\n"
            "cat > key.pem <<'END_OF_KEY'\n%sEND_OF_KEY\n"
            "openssl pkeyutl -verify -pubin -inkey key.pem -rawin -in head.txt -sigfile head.sig > /dev/null ||\n"
            "    { echo 'FALSE: the signature does not hold'; exit 1; }\n"
            "echo 'TRUE: record %" PRId64 " stands under the head of record %" PRId64 ", signed %s'\n",
            pem, p->seq, p->head.seq, p->head.time);
}

static enum rc conclude(FILE *out, struct proof *p, const char *file, const struct audit_keys *keys, const char *id,
                        struct error *e)
{
    struct strbuf pem;

    if (!p->json)
        return error_set(e, RC_NOT_FOUND, "audit: no record of request %.64s", id);
    if (!p->sealed)
        return error_set(e, RC_NOT_FOUND,
                         "audit: request %.64s is recorded, and not yet under a signed head; try again", id);
    memcpy(p->head.public_part, keys->public_part, sizeof p->head.public_part);
    if (!audit_head_verify(&p->head, keys))
        return error_set(e, RC_CONFLICT,
                         "audit: record %" PRId64
                         " (request %.64s) does not lead to a signed head: the chain was changed. "
                         "'spillway audit verify' tells where",
                         p->seq, id);
    strbuf_init(&pem, 4096);
    enum rc rc = audit_keys_public_pem(keys, &pem);
    if (rc == RC_OK)
        print_script(out, p, file, keys, pem.data, id);
    strbuf_fini(&pem);
    return rc;
}

enum rc audit_prove(FILE *out, const char *dir, const struct audit_keys *keys, const char *request_id, struct error *e)
{
    struct proof p = {0};
    char **names, needle[96];
    const char *file = "";
    int n;
    enum rc rc = store_list(dir, &names, &n, e);

    snprintf(needle, sizeof needle, "\"id\":\"%.64s\"", request_id);
    strbuf_init(&p.path, PATH_BYTES_MAX);
    for (int i = n - 1; i >= 0 && rc == RC_OK && !p.json; i--) {
        rc = search(&p, names[i], needle, e);
        file = strrchr(names[i], '/') + 1;
    }
    if (rc == RC_OK)
        rc = conclude(out, &p, file, keys, request_id, e);
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(p.json);
    strbuf_fini(&p.path);
    return rc;
}
