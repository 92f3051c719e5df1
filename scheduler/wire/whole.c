#include "scheduler/wire/whole.h"

#include <string.h>

#define WHOLE_BYTES_MAX ((size_t)32 << 20) /* of each part */
#define KEY_BYTES_MAX   64

void whole_init(struct whole *w, bool chat)
{
    struct strbuf *const texts[] = {&w->content, &w->reasoning, &w->refusal, &w->finish};
    memset(w, 0, sizeof(*w));
    w->chat = chat;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        strbuf_init(texts[i], WHOLE_BYTES_MAX);
    for (int i = 0; i < WHOLE_LISTS_MAX; i++) {
        strbuf_init(&w->lists[i].key, KEY_BYTES_MAX);
        strbuf_init(&w->lists[i].inside, WHOLE_BYTES_MAX);
    }
}

void whole_fini(struct whole *w)
{
    struct strbuf *const texts[] = {&w->content, &w->reasoning, &w->refusal, &w->finish};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        strbuf_fini(texts[i]);
    for (int i = 0; i < WHOLE_LISTS_MAX; i++) {
        strbuf_fini(&w->lists[i].key);
        strbuf_fini(&w->lists[i].inside);
    }
}

void whole_reset(struct whole *w)
{
    bool chat = w->chat;
    whole_fini(w);
    whole_init(w, chat);
}

/* ---- chunks ----------------------------------------------------------------------------------------------------- */

static enum rc add_text(struct strbuf *b, struct span literal)
{
    if (span_is_null(literal))
        return RC_OK;
    return span_is_string(literal) ? strbuf_append(b, literal.p + 1, literal.n - 2) : RC_UNSUPPORTED;
}

static enum rc take_delta(struct whole *w, struct span delta)
{
    struct span key, value;
    struct scan s = scan_object(delta);
    enum rc rc = RC_OK;
    while (rc == RC_OK && scan_member(&s, &key, &value)) {
        if (span_is(key, "content"))
            rc = add_text(&w->content, value);
        else if (span_is(key, "reasoning_content"))
            rc = add_text(&w->reasoning, value);
        else if (span_is(key, "refusal"))
            rc = add_text(&w->refusal, value);
        else if (!span_is(key, "role") && !span_is_null(value))
            rc = RC_UNSUPPORTED;
    }
    return rc == RC_OK && s.failed ? RC_INVALID : rc;
}

static struct whole_list *list_of(struct whole *w, struct span key)
{
    for (int i = 0; i < w->n_lists; i++) {
        if (w->lists[i].key.len == key.n && memcmp(w->lists[i].key.data, key.p, key.n) == 0)
            return &w->lists[i];
    }
    if (w->n_lists == WHOLE_LISTS_MAX || !key.n || strbuf_append(&w->lists[w->n_lists].key, key.p, key.n) != RC_OK)
        return NULL;
    return &w->lists[w->n_lists++];
}

/* Arrays are joined by key, whatever they are called; what is null stays null. */
static enum rc take_logprobs(struct whole *w, struct span logprobs)
{
    struct span key, value;
    struct scan s = scan_object(logprobs);
    while (scan_member(&s, &key, &value)) {
        if (span_is_null(value))
            continue;
        struct whole_list *list = value.p[0] == '[' ? list_of(w, key) : NULL;
        if (!list)
            return RC_UNSUPPORTED;
        struct span inside = {value.p + 1, value.n - 2}, element;
        struct scan elements = scan_array(value);
        if (!scan_element(&elements, &element))
            continue;
        enum rc rc = list->inside.len ? strbuf_append(&list->inside, ",", 1) : RC_OK;
        if (rc == RC_OK)
            rc = strbuf_append(&list->inside, inside.p, inside.n);
        if (rc != RC_OK)
            return rc;
    }
    return s.failed ? RC_INVALID : RC_OK;
}

static enum rc take_choice(struct whole *w, struct span choice)
{
    struct span key, value;
    struct scan s = scan_object(choice);
    enum rc rc = RC_OK;
    while (rc == RC_OK && scan_member(&s, &key, &value)) {
        if (span_is(key, "delta") && !span_is_null(value)) {
            rc = take_delta(w, value);
        } else if (span_is(key, "text")) {
            rc = add_text(&w->content, value);
        } else if (span_is(key, "logprobs") && !span_is_null(value)) {
            rc = take_logprobs(w, value);
        } else if (span_is(key, "finish_reason") && !span_is_null(value)) {
            strbuf_clear(&w->finish);
            rc = strbuf_append(&w->finish, value.p, value.n);
        } else if (span_is(key, "index") && !span_is(value, "0")) {
            rc = RC_UNSUPPORTED;
        }
    }
    return rc == RC_OK && s.failed ? RC_INVALID : rc;
}

enum rc whole_take(struct whole *w, struct span chunk)
{
    struct span choice;
    struct scan s = scan_array(scan_find(chunk, "choices"));
    enum rc rc = RC_OK;
    w->touched = true;
    while (rc == RC_OK && scan_element(&s, &choice))
        rc = take_choice(w, choice);
    return rc == RC_OK && s.failed ? RC_INVALID : rc;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

/* Appends until something fails; then that stays. */
static void put(struct strbuf *out, enum rc *rc, const char *p, size_t n)
{
    if (*rc == RC_OK)
        *rc = strbuf_append(out, p, n);
}

static void puts_to(struct strbuf *out, enum rc *rc, const char *text)
{
    put(out, rc, text, strlen(text));
}

/* "key":VALUE, or nothing when there is no value. */
static void put_member(struct strbuf *out, enum rc *rc, const char *key, struct span value)
{
    if (!value.n)
        return;
    puts_to(out, rc, ",\"");
    puts_to(out, rc, key);
    puts_to(out, rc, "\":");
    put(out, rc, value.p, value.n);
}

static void put_text(struct strbuf *out, enum rc *rc, const char *key, const struct strbuf *inside)
{
    puts_to(out, rc, ",\"");
    puts_to(out, rc, key);
    puts_to(out, rc, "\":\"");
    put(out, rc, inside->data ? inside->data : "", inside->len);
    puts_to(out, rc, "\"");
}

static void put_message(const struct whole *w, struct strbuf *out, enum rc *rc)
{
    if (!w->chat) {
        put_text(out, rc, "text", &w->content);
        return;
    }
    puts_to(out, rc, ",\"message\":{\"role\":\"assistant\"");
    if (w->reasoning.len)
        put_text(out, rc, "reasoning_content", &w->reasoning);
    put_text(out, rc, "content", &w->content);
    if (w->refusal.len)
        put_text(out, rc, "refusal", &w->refusal);
    else
        puts_to(out, rc, ",\"refusal\":null");
    puts_to(out, rc, "}");
}

static void put_logprobs(const struct whole *w, struct strbuf *out, enum rc *rc)
{
    puts_to(out, rc, w->n_lists ? ",\"logprobs\":{" : ",\"logprobs\":null");
    for (int i = 0; i < w->n_lists; i++) {
        puts_to(out, rc, i ? ",\"" : "\"");
        put(out, rc, w->lists[i].key.data, w->lists[i].key.len);
        puts_to(out, rc, "\":[");
        put(out, rc, w->lists[i].inside.data ? w->lists[i].inside.data : "", w->lists[i].inside.len);
        puts_to(out, rc, "]");
    }
    if (w->n_lists)
        puts_to(out, rc, w->chat ? ",\"refusal\":null}" : "}");
}

enum rc whole_write(const struct whole *w, const struct whole_head *h, struct strbuf *out)
{
    enum rc rc = RC_OK;
    puts_to(out, &rc, w->chat ? "{\"object\":\"chat.completion\"" : "{\"object\":\"text_completion\"");
    put_member(out, &rc, "id", h->id);
    put_member(out, &rc, "created", h->created);
    put_member(out, &rc, "model", scan_find(h->like, "model"));
    put_member(out, &rc, "system_fingerprint", scan_find(h->like, "system_fingerprint"));
    puts_to(out, &rc, ",\"choices\":[{\"index\":0");
    put_message(w, out, &rc);
    put_logprobs(w, out, &rc);
    put_member(out, &rc, "finish_reason",
               w->finish.len ? (struct span){w->finish.data, w->finish.len} : (struct span){"null", 4});
    puts_to(out, &rc, "}]");
    put_member(out, &rc, "usage", h->usage);
    puts_to(out, &rc, "}");
    return rc;
}
