#include "scheduler/budgets/rules.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/fnv.h"
#include "base/text.h"

/* ---- labels ------------------------------------------------------------------------------------------------------ */

static bool plain(const char *p, size_t n)
{
    return text_is_word_n(p, n, "-_.@:/+", BUDGET_TAG_MAX);
}

enum rc budget_labels_read(const char *text, char labels[BUDGET_LABELS_BYTES], struct error *e)
{
    size_t at = 0;
    labels[0] = '\0';
    for (int count = 0; text && *(text += strspn(text, " \t,")); count++) {
        size_t n = strcspn(text, ","), name = strcspn(text, "=,");
        size_t end = n;
        while (end && (text[end - 1] == ' ' || text[end - 1] == '\t'))
            end--;
        if (name >= end || !plain(text, name) || !plain(text + name + 1, end - name - 1))
            return error_set(e, RC_INVALID,
                             "\"%.*s\" is not a label; write name=value, each 1 to %d letters, digits and -_.@:/+",
                             n > 80 ? 80 : (int)n, text, BUDGET_TAG_MAX);
        if (count == BUDGET_TAGS_MAX)
            return error_set(e, RC_INVALID, "too many labels; up to %d are allowed", BUDGET_TAGS_MAX);
        at += (size_t)snprintf(labels + at, BUDGET_LABELS_BYTES - at, "%s%.*s,", at ? "" : ",", (int)end, text);
        text += n;
    }
    return RC_OK;
}

/* A label's value, not terminated. */
static const char *label(const char *labels, const char *name, size_t *n)
{
    size_t bytes = strlen(name);
    for (const char *at = labels; at && *at == ',' && at[1]; at = strchr(at + 1, ',')) {
        if (strncmp(at + 1, name, bytes) == 0 && at[1 + bytes] == '=') {
            const char *value = at + bytes + 2;
            *n = strcspn(value, ",");
            return value;
        }
    }
    return NULL;
}

/* ---- rules ------------------------------------------------------------------------------------------------------- */

/* What a condition may ask for; any other name is that of a label. */
static const struct {
    const char *key;
    size_t at;
} known[] = {
    {"organisation", offsetof(struct budget_facts, organisation)},
    {"team", offsetof(struct budget_facts, team)},
    {"project", offsetof(struct budget_facts, project)},
    {"user", offsetof(struct budget_facts, user)},
    {"key", offsetof(struct budget_facts, key)},
    {"model", offsetof(struct budget_facts, model)},
    {"provider", offsetof(struct budget_facts, provider)},
};
#define N_KNOWN (sizeof known / sizeof known[0])

static const char *fact(const struct budget_facts *f, const char *key, size_t *n)
{
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (strcmp(key, known[i].key) == 0) {
            const char *value = *(const char *const *)((const char *)f + known[i].at);
            *n = value ? strlen(value) : 0;
            return value;
        }
    }
    return label(f->labels, key, n);
}

static bool same(const char *value, const char *is, size_t n)
{
    return strncmp(value, is, n) == 0 && !value[n];
}

bool budget_rule_covers(const struct budget_rule *r, const struct budget_facts *f, char name[BUDGET_NAME_BYTES])
{
    size_t at = (size_t)snprintf(name, BUDGET_NAME_BYTES, "%s", r->name);
    uint64_t values = FNV_START; /* all of them: for a name that they don't fit into */
    bool cut = false;
    for (int i = 0; i < r->n_match; i++) {
        const struct budget_match *m = &r->match[i];
        size_t n = 0;
        const char *is = fact(f, m->key, &n);
        bool each = strcmp(m->value, "*") == 0;
        bool node = strcmp(m->key, "provider") == 0 && f->node && strcmp(f->node, m->value) == 0;
        if (!node && (!is || !n || (!each && !same(m->value, is, n))))
            return false;
        if (!each)
            continue;
        values = fnv_text(fnv_bytes(values, is, n), "]");
        at += (size_t)snprintf(name + at, BUDGET_NAME_BYTES - at, "[%.*s]", (int)n, is);
        if (at >= BUDGET_NAME_BYTES) {
            cut = true;
            at = BUDGET_NAME_BYTES - 1;
        }
    }
    if (cut) {
        char number[sizeof "~0123456789abcdef"];
        snprintf(number, sizeof number, "~%016llx", (unsigned long long)values);
        memcpy(&name[BUDGET_NAME_BYTES - sizeof number], number, sizeof number);
    }
    return true;
}

bool budget_rule_asks_provider(const struct budget_rule *r)
{
    for (int i = 0; i < r->n_match; i++) {
        if (strcmp(r->match[i].key, "provider") == 0)
            return true;
    }
    return false;
}

/* One letter too many, too few or another one. */
static bool nearly(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b), head = 0;
    while (a[head] && a[head] == b[head])
        head++;
    while (na > head && nb > head && a[na - 1] == b[nb - 1])
        na--, nb--;
    return na - head <= 1 && nb - head <= 1 && na + nb > 2 * head;
}

const char *budget_match_meant(const struct budget_match *m)
{
    const char *meant = NULL;
    if (strcmp(m->key, "tenant") == 0 || strcmp(m->key, "org") == 0) /* as keys call it */
        return "organisation";
    for (size_t i = 0; i < N_KNOWN; i++) {
        if (strcmp(m->key, known[i].key) == 0)
            return NULL;
        if (nearly(m->key, known[i].key))
            meant = known[i].key;
    }
    return meant;
}

bool budget_match_parse(char *text, struct budget_match *m)
{
    char *is = strchr(text, '=');
    if (!is || !plain(text, (size_t)(is - text)) || !is[1] || strlen(is + 1) > 128 || strpbrk(is + 1, " ,\n\t\""))
        return false;
    *is = '\0';
    *m = (struct budget_match){text, is + 1};
    return true;
}

struct budget_claim budget_rule_claim(const struct budget_rule *r, const char *name, int64_t now_s)
{
    struct period now = period_at(&r->period, now_s), before = period_before(&r->period, now.start_s);
    return (struct budget_claim){.name = name,
                                 .start_s = now.start_s,
                                 .end_s = now.end_s,
                                 .before_start_s = before.start_s,
                                 .limits = r->limits,
                                 .soft = r->soft};
}
