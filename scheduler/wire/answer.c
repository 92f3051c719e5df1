#include "scheduler/wire/answer.h"

#include <string.h>

#include "base/json.h"
#include "scheduler/wire/usage.h"

#define BYTES_PER_TOKEN 4

/* Bytes of the string literals under these keys, quotes left out. */
static size_t text_bytes(struct span object, const char *const *keys, int n)
{
    struct span key, value;
    struct scan s = scan_object(object);
    size_t bytes = 0;
    while (scan_member(&s, &key, &value)) {
        for (int i = 0; i < n; i++) {
            if (span_is(key, keys[i]) && span_is_string(value))
                bytes += value.n - 2;
        }
    }
    return bytes;
}

static int64_t count_output(struct span list)
{
    static const char *const texts[] = {"text"}, *const contents[] = {"content", "reasoning_content"};
    struct span choice;
    struct scan s = scan_array(list);
    size_t bytes = 0;
    while (scan_element(&s, &choice))
        bytes += text_bytes(choice, texts, 1) + text_bytes(scan_find(choice, "message"), contents, 2);
    return (int64_t)((bytes + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN);
}

/* Scanned, not parsed as strictly as a request: an answer may hold what we refuse from clients (a model may well say
 * U+0000), and it is passed on as it is. */
enum rc answer_read(struct span body, const char *answers, struct token_counts *counts, bool *known)
{
    struct span list = {0}, usage = {0}, first, key, value;
    struct scan members = scan_object(body);
    *known = false;
    while (scan_member(&members, &key, &value)) {
        if (span_is(key, answers))
            list = value;
        else if (span_is(key, "usage"))
            usage = value;
    }
    struct scan s = scan_array(list);
    if (members.failed || !list.n || !scan_element(&s, &first))
        return RC_INVALID;
    *known = usage_parse(usage, counts) == RC_OK;
    if (!*known)
        counts->output = count_output(list);
    return RC_OK;
}

static struct span span_of(const struct tree *t, const struct tree_node *node)
{
    struct bytes text = tree_text(t, node);
    return (struct span){text.p, text.n};
}

enum rc answer_read_tree(const struct tree *t, const char *answers, struct token_counts *counts, bool *known)
{
    const struct tree_node *list = NULL, *usage = NULL;
    for (const struct tree_node *m = tree_first(t, tree_root(t)); m; m = tree_next(t, m)) {
        if (tree_key_is(t, m, answers))
            list = m;
        else if (tree_key_is(t, m, "usage"))
            usage = m;
    }
    *known = usage_parse(span_of(t, usage), counts) == RC_OK;
    if (!*known)
        counts->output = count_output(span_of(t, list));
    return list && tree_is(list, TREE_ARRAY) && list->count ? RC_OK : RC_INVALID;
}

bool answer_has(struct span body, const char *member)
{
    struct span key, value, found = {0};
    struct scan s = scan_object(body);
    while (scan_member(&s, &key, &value)) {
        if (span_is(key, member))
            found = value;
    }
    return !s.failed && found.n && (span_is_string(found) || (found.p[0] >= '0' && found.p[0] <= '9'));
}

enum rc answer_write(struct span body, const char *model, const char *tier, struct strbuf *out)
{
    struct span place = {0}, there = {0}, key, value;
    struct scan s = scan_object(body);
    struct strbuf name;
    struct edit edits[2];
    char put[TIER_EDIT_BYTES];
    enum rc rc = RC_OK;
    int n = 0;
    while (scan_member(&s, &key, &value)) {
        if (span_is(key, "model"))
            place = value;
        else if (span_is(key, "service_tier"))
            there = value;
    }
    if (s.failed)
        return strbuf_append(out, body.p, body.n);
    strbuf_init(&name, 8192);
    if (model && span_is_string(place)) {
        rc = json_append_string(&name, model, strlen(model));
        edits[n++] = (struct edit){place.p, place.n, name.data, name.len};
    }
    n += tier_edit(tier, place, there, put, &edits[n]);
    if (rc == RC_OK)
        rc = edits_apply(body, edits, n, out);
    strbuf_fini(&name);
    return rc;
}
