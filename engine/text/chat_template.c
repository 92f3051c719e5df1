#include "engine/text/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/unicode.h"

/* ---- writing a prompt ---- */

void chat_prompt_init(struct chat_prompt *p, size_t bytes_max)
{
    *p = (struct chat_prompt){0};
    strbuf_init(&p->text, bytes_max);
}

void chat_prompt_fini(struct chat_prompt *p)
{
    strbuf_fini(&p->text);
    free(p->segments);
    *p = (struct chat_prompt){0};
}

/* What a renderer writes to. The first failure sticks, so that renderers read like templates. */
struct writer {
    struct chat_prompt *p;
    const struct chat_messages *messages;
    const struct chat_options *o;
    enum rc rc;
};

static void put(struct writer *w, const char *s, size_t n, bool is_markup)
{
    struct chat_prompt *p = w->p;

    if (w->rc != RC_OK || n == 0 || (w->rc = strbuf_append(&p->text, s, n)) != RC_OK)
        return;
    if (p->n_segments && p->segments[p->n_segments - 1].is_markup == is_markup) {
        p->segments[p->n_segments - 1].len += n;
        return;
    }
    if (p->n_segments == p->cap_segments) {
        p->cap_segments = p->cap_segments ? p->cap_segments * 2 : 16;
        p->segments = spw_realloc(p->segments, p->cap_segments * sizeof(*p->segments));
    }
    p->segments[p->n_segments++] = (struct text_segment){n, is_markup};
}

static void markup(struct writer *w, const char *s)
{
    put(w, s, strlen(s), true);
}

static void content(struct writer *w, struct text_span s)
{
    put(w, s.ptr, s.len, false);
}

static void bos(struct writer *w, const char *otherwise)
{
    if (w->o->bos.ptr)
        put(w, w->o->bos.ptr, w->o->bos.len, true);
    else
        markup(w, otherwise);
}

/* ---- what templates do to contents ---- */

static struct text_span content_of(const struct chat_message *m)
{
    return (struct text_span){m->content, m->len};
}

/* Jinja's trim is Python's strip(): white space and the four information separators. */
static bool strips(uint32_t cp)
{
    return unicode_class(cp) == UNICODE_SPACE || (cp >= 0x1C && cp <= 0x1F);
}

static struct text_span trim(struct text_span s)
{
    uint32_t cp;

    while (s.len) {
        size_t n = utf8_decode((const unsigned char *)s.ptr, s.len, &cp);
        if (!strips(cp))
            break;
        s.ptr += n;
        s.len -= n;
    }
    while (s.len) {
        size_t at = s.len - 1;
        while (at > 0 && s.len - at < 4 && ((unsigned char)s.ptr[at] & 0xC0) == 0x80)
            at--;
        if (utf8_decode((const unsigned char *)s.ptr + at, s.len - at, &cp) != s.len - at || !strips(cp))
            break;
        s.len = at;
    }
    return s;
}

/* An earlier answer goes back without its reasoning: what follows its first or last </think>, or all of it. */
static struct text_span after_thinking(struct text_span s, bool last)
{
    static const char tag[] = "</think>";
    const size_t n = sizeof(tag) - 1;
    struct text_span rest = s;

    for (size_t i = n; i <= s.len; i++) {
        if (memcmp(s.ptr + i - n, tag, n) != 0)
            continue;
        rest = (struct text_span){s.ptr + i, s.len - i};
        if (!last)
            break;
    }
    return rest;
}

static struct text_span trim_newlines_left(struct text_span s)
{
    while (s.len && *s.ptr == '\n') {
        s.ptr++;
        s.len--;
    }
    return s;
}

static const char *role_name(enum chat_role role)
{
    return role == CHAT_SYSTEM ? "system" : role == CHAT_USER ? "user" : "assistant";
}

/* ---- the families ---- */

#define DS_BOS  "<｜begin▁of▁sentence｜>"
#define DS_EOS  "<｜end▁of▁sentence｜>"
#define DS_USER "<｜User｜>"
#define DS_ASST "<｜Assistant｜>"

static void deepseek_user(struct writer *w, const struct chat_message *m)
{
    markup(w, DS_USER);
    content(w, content_of(m));
}

static void deepseek_answer(struct writer *w, const char *opening, struct text_span s)
{
    markup(w, opening);
    content(w, s);
    markup(w, DS_EOS);
}

/* R1 and its distillations: of several system messages the last counts, wherever it stands; the prompt opens <think>. */
static void render_deepseek_r1(struct writer *w)
{
    const struct chat_messages *m = w->messages;
    size_t i = m->n;

    bos(w, DS_BOS);
    while (i > 0 && m->items[i - 1].role != CHAT_SYSTEM)
        i--;
    if (i > 0)
        content(w, content_of(&m->items[i - 1]));
    for (i = 0; i < m->n; i++) {
        if (m->items[i].role == CHAT_USER)
            deepseek_user(w, &m->items[i]);
        else if (m->items[i].role == CHAT_ASSISTANT)
            deepseek_answer(w, DS_ASST, after_thinking(content_of(&m->items[i]), true));
    }
    markup(w, DS_ASST "<think>\n");
}

/* The Qwen distillations' template has a switch that closes the reasoning at once. */
static void render_deepseek_r1_qwen(struct writer *w)
{
    render_deepseek_r1(w);
    if (w->o->thinking_off)
        markup(w, "</think>");
}

static void deepseek_v31_system(struct writer *w)
{
    const struct chat_messages *m = w->messages;
    bool first = true;

    for (size_t i = 0; i < m->n; i++) {
        if (m->items[i].role != CHAT_SYSTEM)
            continue;
        if (!first)
            markup(w, "\n\n");
        content(w, content_of(&m->items[i]));
        first = false;
    }
}

/* System messages come first, joined by an empty line. An earlier answer opens with an empty reasoning block; one that
 * follows another answer has no opening at all. */
static void render_deepseek_v31(struct writer *w)
{
    const struct chat_messages *m = w->messages;
    bool after_user = false;

    bos(w, DS_BOS);
    deepseek_v31_system(w);
    for (size_t i = 0; i < m->n; i++) {
        if (m->items[i].role == CHAT_USER) {
            deepseek_user(w, &m->items[i]);
            after_user = true;
        } else if (m->items[i].role == CHAT_ASSISTANT) {
            deepseek_answer(w, after_user ? DS_ASST "<think></think>" : "",
                            after_thinking(content_of(&m->items[i]), false));
            after_user = false;
        }
    }
    markup(w, w->o->thinking_off ? DS_ASST "<think></think>" : DS_ASST "<think>");
}

/* Messages in their order, no reasoning. */
static void render_deepseek_v3(struct writer *w)
{
    const struct chat_messages *m = w->messages;

    bos(w, DS_BOS);
    for (size_t i = 0; i < m->n; i++) {
        if (m->items[i].role == CHAT_SYSTEM)
            content(w, content_of(&m->items[i]));
        else if (m->items[i].role == CHAT_USER)
            deepseek_user(w, &m->items[i]);
        else
            deepseek_answer(w, DS_ASST, content_of(&m->items[i]));
    }
    markup(w, DS_ASST);
}

static void chatml_turn(struct writer *w, const char *role, struct text_span s)
{
    markup(w, "<|im_start|>");
    markup(w, role);
    markup(w, "\n");
    content(w, s);
    markup(w, "<|im_end|>\n");
}

static void render_chatml(struct writer *w)
{
    const struct chat_messages *m = w->messages;

    for (size_t i = 0; i < m->n; i++)
        chatml_turn(w, role_name(m->items[i].role), content_of(&m->items[i]));
    markup(w, "<|im_start|>assistant\n");
}

/* Where no system message comes first, the template has one of its own. */
static void chatml_with_system(struct writer *w, const char *own)
{
    if (w->messages->items[0].role != CHAT_SYSTEM) {
        markup(w, "<|im_start|>system\n");
        markup(w, own);
        markup(w, "<|im_end|>\n");
    }
    render_chatml(w);
}

static void render_qwen25(struct writer *w)
{
    chatml_with_system(w, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.");
}

static void render_qwen2(struct writer *w)
{
    chatml_with_system(w, "You are a helpful assistant.");
}

/* QwQ and Qwen3 drop the reasoning of earlier answers. */
static void qwen_history(struct writer *w)
{
    const struct chat_messages *m = w->messages;

    for (size_t i = 0; i < m->n; i++) {
        struct text_span s = content_of(&m->items[i]);
        if (m->items[i].role == CHAT_ASSISTANT)
            s = trim_newlines_left(after_thinking(s, true));
        chatml_turn(w, role_name(m->items[i].role), s);
    }
    markup(w, "<|im_start|>assistant\n");
}

static void render_qwen3(struct writer *w)
{
    qwen_history(w);
    if (w->o->thinking_off)
        markup(w, "<think>\n\n</think>\n\n");
}

static void render_qwq(struct writer *w)
{
    qwen_history(w);
    markup(w, w->o->thinking_off ? "<think>\n</think>" : "<think>\n");
}

static void llama3_header(struct writer *w, const char *role)
{
    markup(w, "<|start_header_id|>");
    markup(w, role);
    markup(w, "<|end_header_id|>\n\n");
}

/* A system block always, with dates. */
static void render_llama31(struct writer *w)
{
    const struct chat_messages *m = w->messages;
    size_t i = 0;

    bos(w, "<|begin_of_text|>");
    llama3_header(w, "system");
    markup(w, "Cutting Knowledge Date: December 2023\nToday Date: ");
    markup(w, w->o->date ? w->o->date : "26 Jul 2024");
    markup(w, "\n\n");
    if (m->items[0].role == CHAT_SYSTEM)
        content(w, trim(content_of(&m->items[i++])));
    markup(w, "<|eot_id|>");
    for (; i < m->n; i++) {
        llama3_header(w, role_name(m->items[i].role));
        content(w, trim(content_of(&m->items[i])));
        markup(w, "<|eot_id|>");
    }
    llama3_header(w, "assistant");
}

/* Headers and nothing else. */
static void render_llama3(struct writer *w)
{
    const struct chat_messages *m = w->messages;

    bos(w, "<|begin_of_text|>");
    for (size_t i = 0; i < m->n; i++) {
        llama3_header(w, role_name(m->items[i].role));
        content(w, content_of(&m->items[i]));
        markup(w, "<|eot_id|>");
    }
    llama3_header(w, "assistant");
}

/* For base models: the contents, a newline between them. One message is the prompt as it stands. */
static void render_plain(struct writer *w)
{
    const struct chat_messages *m = w->messages;

    for (size_t i = 0; i < m->n; i++) {
        if (i > 0)
            markup(w, "\n");
        content(w, content_of(&m->items[i]));
    }
}

/* ---- the table ---- */

enum thinking {
    THINKING_NONE,   /* no reasoning blocks */
    THINKING_WRITES, /* the model opens its block itself */
    THINKING_OPENS,  /* the prompt opens it, always */
    THINKING_SWITCH, /* the prompt opens it unless thinking is off */
};

struct chat_template {
    const char *name;
    void (*render)(struct writer *w);
    enum thinking thinking;
    const char *stops[4];
    /* How the Jinja text of such a template is told: it holds all of `has` and none of `lacks`. Rows are tried in
     * order. A row without `has` is chosen by name only. */
    const char *has[3], *lacks[3];
};

#define DS_STOPS                                                                                                       \
    {                                                                                                                  \
        DS_EOS                                                                                                         \
    }
#define QWEN_STOPS                                                                                                     \
    {                                                                                                                  \
        "<|im_end|>", "<|endoftext|>"                                                                                  \
    }
#define LLAMA_STOPS                                                                                                    \
    {                                                                                                                  \
        "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"                                                                  \
    }

static const struct chat_template templates[] = {
    {.name = "deepseek-r1-distill-qwen",
     .render = render_deepseek_r1_qwen,
     .thinking = THINKING_SWITCH,
     .stops = DS_STOPS,
     .has = {DS_ASST "<think>", "enable_thinking"},
     .lacks = {"is_last_user"}},
    {.name = "deepseek-r1-distill-llama",
     .render = render_deepseek_r1,
     .thinking = THINKING_OPENS,
     .stops = DS_STOPS,
     .has = {DS_ASST, "'</think>' in "}, /* the first edition did not open <think> itself; its authors advise to */
     .lacks = {"is_last_user"}},
    {.name = "deepseek-r1", .render = render_deepseek_r1, .thinking = THINKING_OPENS, .stops = DS_STOPS},
    {.name = "deepseek-v3.1",
     .render = render_deepseek_v31,
     .thinking = THINKING_SWITCH,
     .stops = DS_STOPS,
     .has = {DS_ASST, "is_last_user", "</think>"},
     .lacks = {"DSML"}},
    {.name = "deepseek-v3",
     .render = render_deepseek_v3,
     .stops = DS_STOPS,
     .has = {DS_USER, DS_ASST},
     .lacks = {"think"}},
    {.name = "qwen2.5-instruct",
     .render = render_qwen25,
     .stops = QWEN_STOPS,
     .has = {"<|im_start|>", "You are Qwen, created by Alibaba Cloud."}},
    {.name = "qwen2-instruct",
     .render = render_qwen2,
     .stops = QWEN_STOPS,
     .has = {"<|im_start|>system\\nYou are a helpful assistant.<|im_end|>"}},
    {.name = "qwen3",
     .render = render_qwen3,
     .thinking = THINKING_WRITES,
     .stops = QWEN_STOPS,
     .has = {"<|im_start|>", "<think>\\n\\n</think>\\n\\n"}},
    {.name = "qwq-32b",
     .render = render_qwq,
     .thinking = THINKING_SWITCH,
     .stops = QWEN_STOPS,
     .has = {"<|im_start|>assistant\\n<think>\\n"}},
    {.name = "llama-3.1-instruct",
     .render = render_llama31,
     .stops = LLAMA_STOPS,
     .has = {"<|start_header_id|>", "Cutting Knowledge Date: December 2023"}},
    {.name = "llama-3.3-instruct", .render = render_llama31, .stops = LLAMA_STOPS},
    {.name = "llama-3-instruct",
     .render = render_llama3,
     .stops = LLAMA_STOPS,
     .has = {"<|start_header_id|>", "<|eot_id|>"}},
    {.name = "chatml",
     .render = render_chatml,
     .stops = QWEN_STOPS,
     .has = {"<|im_start|>", "<|im_end|>"},
     .lacks = {"think"}},
    {.name = "plain", .render = render_plain},
};
#define N_TEMPLATES (sizeof(templates) / sizeof(templates[0]))

const struct chat_template *chat_template_at(size_t i)
{
    return i < N_TEMPLATES ? &templates[i] : NULL;
}

const struct chat_template *chat_template_find(const char *name)
{
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0)
            return &templates[i];
    return NULL;
}

static void names(char *buf, size_t size)
{
    size_t at = 0;

    for (size_t i = 0; i < N_TEMPLATES; i++) {
        size_t n = strlen(templates[i].name);
        SPW_ASSERT(at + n + 3 < size);
        memcpy(buf + at, i ? ", " : "", i ? 2 : 0);
        memcpy(buf + at + (i ? 2 : 0), templates[i].name, n);
        at += n + (i ? 2 : 0);
    }
    buf[at] = '\0';
}

enum rc chat_template_get(const char *name, const struct chat_template **t, struct error *e)
{
    char list[400];

    *t = chat_template_find(name);
    if (*t)
        return RC_OK;
    names(list, sizeof(list));
    return error_set(e, RC_INVALID, "there is no chat template \"%.40s\"; --chat-template takes %s", name, list);
}

static bool holds(struct text_span text, const char *part)
{
    return memmem(text.ptr, text.len, part, strlen(part)) != NULL;
}

static bool recognises(const struct chat_template *t, struct text_span jinja)
{
    if (!t->has[0])
        return false;
    for (int i = 0; i < 3 && t->has[i]; i++)
        if (!holds(jinja, t->has[i]))
            return false;
    for (int i = 0; i < 3 && t->lacks[i]; i++)
        if (holds(jinja, t->lacks[i]))
            return false;
    return true;
}

enum rc chat_template_detect(const char *jinja, size_t len, const struct chat_template **t, struct error *e)
{
    char list[400];

    *t = NULL;
    for (size_t i = 0; i < N_TEMPLATES && len; i++) {
        if (!recognises(&templates[i], (struct text_span){jinja, len}))
            continue;
        *t = &templates[i];
        return RC_OK;
    }
    names(list, sizeof(list));
    return error_set(e, len ? RC_UNSUPPORTED : RC_NOT_FOUND, "%s; choose one with --chat-template NAME: %s",
                     len ? "the file's chat template is not one we know" : "the file has no chat template", list);
}

const char *chat_template_name(const struct chat_template *t)
{
    return t->name;
}

const char *const *chat_template_stops(const struct chat_template *t)
{
    return t->stops;
}

bool chat_template_starts_in_reasoning(const struct chat_template *t, const struct chat_options *o)
{
    return t->thinking == THINKING_OPENS || (t->thinking == THINKING_SWITCH && !(o && o->thinking_off));
}

bool chat_template_reasons(const struct chat_template *t)
{
    return t->thinking != THINKING_NONE;
}

enum rc chat_template_render(const struct chat_template *t, const struct chat_messages *messages,
                             const struct chat_options *options, struct chat_prompt *p, struct error *e)
{
    const struct chat_options none = {0};
    struct writer w = {.p = p, .messages = messages, .o = options ? options : &none};

    if (messages->n == 0)
        return error_set(e, RC_INVALID, "messages is empty; a chat needs at least one");
    t->render(&w);
    if (w.rc != RC_OK)
        return error_set(e, w.rc, "the prompt is longer than %zu bytes", p->text.max);
    return RC_OK;
}
