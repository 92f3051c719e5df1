#include "scheduler/front/answer.h"

#include <string.h>

#include "base/json.h"
#include "scheduler/front/usage.h"

#define BYTES_PER_TOKEN 4

static size_t text_bytes(const cJSON *item)
{
    return cJSON_IsString(item) ? strlen(item->valuestring) : 0;
}

static int64_t count_output(const cJSON *choices)
{
    size_t bytes = 0;
    for (const cJSON *c = choices->child; c; c = c->next) {
        const cJSON *message = cJSON_GetObjectItemCaseSensitive(c, "message");
        bytes += text_bytes(cJSON_GetObjectItemCaseSensitive(c, "text"));
        bytes += text_bytes(cJSON_GetObjectItemCaseSensitive(message, "content"));
        bytes += text_bytes(cJSON_GetObjectItemCaseSensitive(message, "reasoning_content"));
    }
    return (int64_t)((bytes + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN);
}

enum rc answer_read(struct span body, struct token_counts *counts, bool *known)
{
    cJSON *root = NULL;
    *known = false;
    if (!body.n || json_parse(body.p, body.n, JSON_DEPTH_MAX, &root, NULL) != RC_OK)
        return RC_INVALID;
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices");
    enum rc rc = cJSON_IsArray(choices) && choices->child ? RC_OK : RC_INVALID;
    if (rc == RC_OK) {
        *known = usage_parse(scan_find(body, "usage"), counts) == RC_OK;
        if (!*known)
            counts->output = count_output(choices);
    }
    cJSON_Delete(root);
    return rc;
}

enum rc answer_write(struct span body, const char *model, struct strbuf *out)
{
    struct span place = scan_find(body, "model");
    struct strbuf name;
    struct edit edit;
    if (!model || !span_is_string(place))
        return strbuf_append(out, body.p, body.n);
    strbuf_init(&name, 8192);
    enum rc rc = json_append_string(&name, model, strlen(model));
    edit = (struct edit){place.p, place.n, name.data, name.len};
    if (rc == RC_OK)
        rc = edits_apply(body, &edit, 1, out);
    strbuf_fini(&name);
    return rc;
}
