#include "scheduler/auth/identity.h"

#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static const struct {
    const char *word;
    unsigned scope;
} scope_words[] = {{"inference", AUTH_SCOPE_INFERENCE}, {"usage", AUTH_SCOPE_USAGE}, {"admin", AUTH_SCOPE_ADMIN}};
#define N_SCOPES (sizeof scope_words / sizeof scope_words[0])

unsigned auth_scope_parse(const char *word, size_t n)
{
    for (size_t i = 0; i < N_SCOPES; i++)
        if (strlen(scope_words[i].word) == n && memcmp(scope_words[i].word, word, n) == 0)
            return scope_words[i].scope;
    return 0;
}

char *auth_scopes_format(unsigned scopes, char *buf, size_t size)
{
    size_t len = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < N_SCOPES; i++) {
        if (!(scopes & scope_words[i].scope) || len + strlen(scope_words[i].word) + 2 > size)
            continue;
        len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? " " : "", scope_words[i].word);
    }
    return buf;
}

/* One block: the struct, the list of models, the networks, then all text. */
struct copier {
    char *at;
};

static const char *copy_text(struct copier *c, const char *s)
{
    if (!s)
        return NULL;
    size_t n = strlen(s) + 1;
    char *copy = c->at;
    memcpy(copy, s, n);
    c->at += n;
    return copy;
}

static size_t text_bytes(const char *s)
{
    return s ? strlen(s) + 1 : 0;
}

struct identity *identity_new(const struct identity *like)
{
    SPW_ASSERT(like->tenant);
    size_t models = (size_t)like->n_models * sizeof(const char *);
    size_t networks = (size_t)like->n_networks * sizeof(struct network);
    size_t text = text_bytes(like->tenant) + text_bytes(like->team) + text_bytes(like->project) +
                  text_bytes(like->user) + text_bytes(like->key_id) + text_bytes(like->rate_class);
    for (int i = 0; i < like->n_models; i++)
        text += text_bytes(like->models[i]);

    struct identity *who = spw_calloc(1, sizeof *who + models + networks + text);
    const char **model = (const char **)(who + 1);
    struct network *network = (struct network *)(void *)(model + like->n_models);
    _Static_assert(alignof(struct network) == 1 && alignof(struct identity) >= alignof(char *), "one block, in order");
    struct copier c = {(char *)(network + like->n_networks)};
    who->tenant = copy_text(&c, like->tenant);
    who->team = copy_text(&c, like->team);
    who->project = copy_text(&c, like->project);
    who->user = copy_text(&c, like->user);
    who->key_id = copy_text(&c, like->key_id);
    who->rate_class = copy_text(&c, like->rate_class);
    who->scopes = like->scopes;
    who->local_only = like->local_only;
    for (int i = 0; i < like->n_models; i++)
        model[i] = copy_text(&c, like->models[i]);
    if (networks)
        memcpy(network, like->networks, networks);
    who->models = model;
    who->n_models = like->n_models;
    who->networks = network;
    who->n_networks = like->n_networks;
    atomic_init(&who->refs, 1);
    return who;
}

struct identity *identity_ref(struct identity *who)
{
    atomic_fetch_add_explicit(&who->refs, 1, memory_order_relaxed);
    return who;
}

void identity_unref(struct identity *who)
{
    if (!who)
        return;
    int before = atomic_fetch_sub_explicit(&who->refs, 1, memory_order_acq_rel);
    SPW_ASSERT(before > 0);
    if (before == 1)
        free(who);
}

bool identity_may_use(const struct identity *who, const char *model)
{
    for (int i = 0; i < who->n_models; i++) {
        size_t n = strlen(who->models[i]);
        bool prefix = n > 0 && who->models[i][n - 1] == '*';
        if (prefix ? strncmp(who->models[i], model, n - 1) == 0 : strcmp(who->models[i], model) == 0)
            return true;
    }
    return who->n_models == 0;
}

bool identity_name_ok(const char *text)
{
    return text_is_word(text, "-_.", 64);
}

bool identity_user_ok(const char *text)
{
    return text_is_word(text, "-_.@+|:/=", 128);
}

bool identity_model_ok(const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c <= ' ' || c >= 0x7f || strchr("\"'\\", c) || (c == '*' && i + 1 < n))
            return false;
    }
    return n > 0 && n <= 128;
}
