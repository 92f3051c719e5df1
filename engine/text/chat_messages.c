/* Messages as clients send them, checked. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat_template.h"

static enum rc read_role(const cJSON *message, int i, enum chat_role *role, struct error *e)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(message, "role");

    if (!cJSON_IsString(item))
        return error_set(e, RC_INVALID, "messages[%d].role is missing or not a string", i);
    if (strcmp(item->valuestring, "system") == 0 || strcmp(item->valuestring, "developer") == 0)
        *role = CHAT_SYSTEM;
    else if (strcmp(item->valuestring, "user") == 0)
        *role = CHAT_USER;
    else if (strcmp(item->valuestring, "assistant") == 0)
        *role = CHAT_ASSISTANT;
    else
        return error_set(e, RC_INVALID,
                         "messages[%d].role is \"%.40s\"; it can be system, developer, user or assistant", i,
                         item->valuestring);
    return RC_OK;
}

/* [{"type": "text", "text": "..."}, ...] */
static enum rc read_parts(const cJSON *parts, int i, struct strbuf *out, struct error *e)
{
    const cJSON *part;
    int k = 0;

    cJSON_ArrayForEach(part, parts)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0)
            return error_set(e, RC_INVALID,
                             "messages[%d].content[%d].type must be \"text\"; other parts are not supported", i, k);
        if (!cJSON_IsString(text))
            return error_set(e, RC_INVALID, "messages[%d].content[%d].text is missing or not a string", i, k);
        if ((k && strbuf_append(out, "\n", 1) != RC_OK) ||
            strbuf_append(out, text->valuestring, strlen(text->valuestring)) != RC_OK)
            return error_set(e, RC_FULL, "messages[%d].content is longer than %zu bytes", i, out->max);
        k++;
    }
    return RC_OK;
}

static enum rc read_message(const cJSON *message, int i, struct chat_message *m, struct error *e)
{
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
    struct strbuf text;
    enum rc rc;

    if (!cJSON_IsObject(message))
        return error_set(e, RC_INVALID, "messages[%d] is not an object", i);
    if ((rc = read_role(message, i, &m->role, e)) != RC_OK)
        return rc;
    strbuf_init(&text, TOKENIZER_TEXT_MAX);
    if (cJSON_IsString(content)) {
        if ((rc = strbuf_append(&text, content->valuestring, strlen(content->valuestring))) != RC_OK)
            error_set(e, rc, "messages[%d].content is longer than %zu bytes", i, text.max);
    } else if (cJSON_IsArray(content)) {
        rc = read_parts(content, i, &text, e);
    } else if (!(m->role == CHAT_ASSISTANT && (!content || cJSON_IsNull(content)))) {
        rc = error_set(e, RC_INVALID, "messages[%d].content must be a string or an array of text parts", i);
    }
    if (rc == RC_OK) {
        m->len = text.len;
        m->content = strbuf_take(&text);
    }
    strbuf_fini(&text);
    return rc;
}

enum rc chat_messages_parse(const cJSON *array, struct chat_messages *list, struct error *e)
{
    const cJSON *item;
    int n = cJSON_IsArray(array) ? cJSON_GetArraySize(array) : 0;
    enum rc rc;

    *list = (struct chat_messages){0};
    if (n == 0)
        return error_set(e, RC_INVALID, "messages must be an array with at least one message");
    if (n > CHAT_MESSAGES_MAX)
        return error_set(e, RC_INVALID, "messages has %d entries; the limit is %d", n, CHAT_MESSAGES_MAX);
    list->items = spw_calloc((size_t)n, sizeof(*list->items));
    cJSON_ArrayForEach(item, array)
    {
        if ((rc = read_message(item, (int)list->n, &list->items[list->n], e)) != RC_OK) {
            chat_messages_fini(list);
            return rc;
        }
        list->n++;
    }
    return RC_OK;
}

void chat_messages_fini(struct chat_messages *list)
{
    for (size_t i = 0; i < list->n; i++)
        free((char *)list->items[i].content);
    free(list->items);
    *list = (struct chat_messages){0};
}
