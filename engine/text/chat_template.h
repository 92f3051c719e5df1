/* Chat templates: messages in, the exact prompt bytes of a model family out.
 *
 * Templates are code here, one row each in a table, not an interpreter for the file's Jinja text: the text only tells
 * which row to use. A prompt is rendered as segments, so that text inside a message which looks like a control token
 * stays text (see tokenize_segments). */
#ifndef ENGINE_TEXT_CHAT_TEMPLATE_H
#define ENGINE_TEXT_CHAT_TEMPLATE_H

#include "base/json.h"
#include "engine/text/tokenizer.h"

#define CHAT_MESSAGES_MAX 4096

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

struct chat_message {
    enum chat_role role;
    const char *content; /* owned by the list */
    size_t len;
};

struct chat_messages {
    struct chat_message *items; /* owned */
    size_t n;
};

/* Read [{"role": ..., "content": ...}, ...]. Roles: system (or developer), user, assistant. Content: a string, or an
 * array of {"type": "text", "text": ...} parts, joined by newlines; null for an assistant is "". Errors name the index
 * and the key. On RC_OK *list is the caller's until chat_messages_fini(). */
enum rc chat_messages_parse(const cJSON *array, struct chat_messages *list, struct error *e) SPW_MUST_USE;
void chat_messages_fini(struct chat_messages *list);

struct chat_template;

/* By name; NULL when there is none. */
const struct chat_template *chat_template_find(const char *name);
/* By name, or a text that lists the names. */
enum rc chat_template_get(const char *name, const struct chat_template **t, struct error *e) SPW_MUST_USE;
/* From the file's tokenizer.chat_template. RC_NOT_FOUND: the text is empty (no template in the file). RC_UNSUPPORTED:
 * none of ours. Both texts name --chat-template and the list. */
enum rc chat_template_detect(const char *jinja, size_t len, const struct chat_template **t,
                             struct error *e) SPW_MUST_USE;
/* Row i of the table, or NULL past the end. */
const struct chat_template *chat_template_at(size_t i);

const char *chat_template_name(const struct chat_template *t);
/* Names of the tokens that end an answer, NULL-terminated; those that the vocabulary has join its own end tokens. */
const char *const *chat_template_stops(const struct chat_template *t);

struct chat_options {
    bool thinking_off;    /* for templates with a switch: the answer starts without reasoning */
    struct text_span bos; /* text of the file's BOS token; {NULL, 0}: the template's own */
    const char *date;     /* "26 Jul 2024" when NULL; used by the Llama 3.1 and 3.3 templates */
};

/* Does an answer to a prompt rendered so begin inside the reasoning? (The prompt itself opened <think>.) */
bool chat_template_starts_in_reasoning(const struct chat_template *t, const struct chat_options *o);
/* Does the family write <think> blocks at all? */
bool chat_template_reasons(const struct chat_template *t);

/* A rendered prompt. The lengths of the segments add up to text.len. */
struct chat_prompt {
    struct strbuf text;
    struct text_segment *segments; /* owned */
    size_t n_segments, cap_segments;
};
void chat_prompt_init(struct chat_prompt *p, size_t bytes_max);
void chat_prompt_fini(struct chat_prompt *p);

/* Append the prompt for messages, ending where the assistant's answer begins. options may be NULL. The prompt contains
 * the BOS text where the template has it; tokenize_segments() with TOKENIZE_ADD_SPECIAL does not add a second one.
 * RC_INVALID: no messages. RC_FULL: the prompt passes its maximum. */
enum rc chat_template_render(const struct chat_template *t, const struct chat_messages *messages,
                             const struct chat_options *options, struct chat_prompt *p, struct error *e) SPW_MUST_USE;

#endif
