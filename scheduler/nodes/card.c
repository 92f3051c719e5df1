#include "scheduler/nodes/card.h"

#include <string.h>

#include "base/json.h"

#define SLOTS_MAX   100000
#define CONTEXT_MAX 100000000
#define KV_MAX      INT64_C(1000000000000)

static const cJSON *find_model(const cJSON *list, const char *model)
{
    const cJSON *m;
    cJSON_ArrayForEach(m, list)
    {
        const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "id"));
        if (id && model && strcmp(id, model) == 0)
            return m;
    }
    return cJSON_GetArrayItem(list, 0);
}

static void read_numerics(struct node_card *card, const cJSON *model)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(model, "spillway_numerics"));
    if (text && strlen(text) == NUMERICS_DIGITS && strspn(text, "0123456789abcdef") == NUMERICS_DIGITS)
        memcpy(card->numerics, text, NUMERICS_DIGITS + 1);
}

enum rc node_card_read(struct node_card *card, const char *text, size_t n, const char *model)
{
    cJSON *root = NULL;
    int64_t slots = 0, context = 0, kv = 0;
    *card = (struct node_card){.slots = 0};
    enum rc rc = json_parse(text, n, 16, &root, NULL);
    const cJSON *list = rc == RC_OK ? cJSON_GetObjectItemCaseSensitive(root, "data") : NULL;
    const cJSON *m = cJSON_IsArray(list) ? find_model(list, model) : NULL;
    if (rc == RC_OK && !cJSON_IsArray(list))
        rc = RC_INVALID;
    if (cJSON_IsObject(m)) {
        read_numerics(card, m);
        card->resume = card->numerics[0] && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(m, "spillway_resume"));
        if (json_get_int(m, "spillway_slots", 0, SLOTS_MAX, &slots, NULL, NULL) == RC_OK)
            card->slots = (int)slots;
        if (json_get_int(m, "spillway_context", 0, CONTEXT_MAX, &context, NULL, NULL) == RC_OK)
            card->context = (int)context;
        if (json_get_int(m, "spillway_kv_tokens", 0, KV_MAX, &kv, NULL, NULL) == RC_OK)
            card->kv_tokens = kv;
    }
    cJSON_Delete(root);
    return rc == RC_OK ? RC_OK : RC_INVALID;
}

bool node_card_equal(const struct node_card *a, const struct node_card *b)
{
    return a->resume == b->resume && strcmp(a->numerics, b->numerics) == 0 && a->slots == b->slots &&
           a->kv_tokens == b->kv_tokens && a->context == b->context;
}
