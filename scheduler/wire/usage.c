#include "scheduler/wire/usage.h"

#include "base/json.h"

#define TOKENS_MAX INT64_C(1000000000000)

enum rc usage_parse(struct span object, struct token_counts *counts)
{
    struct json_doc doc;
    struct token_counts c = {.input = -1};
    bool cached = false;
    if (!object.n)
        return RC_INVALID;
    enum rc rc = json_doc_parse(&doc, object.p, object.n, 16, NULL);
    const cJSON *root = doc.root;
    if (rc == RC_OK && !cJSON_IsObject(root))
        rc = RC_INVALID;
    if (rc == RC_OK)
        rc = json_get_int(root, "prompt_tokens", 0, TOKENS_MAX, &c.input, NULL, NULL);
    if (rc == RC_OK)
        rc = json_get_int(root, "completion_tokens", 0, TOKENS_MAX, &c.output, NULL, NULL);
    const cJSON *details = rc == RC_OK ? json_find(root, "prompt_tokens_details") : NULL;
    if (cJSON_IsObject(details))
        rc = json_get_int(details, "cached_tokens", 0, TOKENS_MAX, &c.cached_input, &cached, NULL);
    if (rc == RC_OK && !cached)
        rc = json_get_int(root, "prompt_cache_hit_tokens", 0, TOKENS_MAX, &c.cached_input, NULL, NULL);
    json_doc_fini(&doc);
    if (rc != RC_OK || c.input < 0)
        return RC_INVALID;
    if (c.cached_input > c.input)
        c.cached_input = c.input;
    *counts = c;
    return RC_OK;
}
