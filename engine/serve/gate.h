/* Which paths there are, and who may ask for them. Shared by the server and by the supervisor that stands in for it
 * while there is no worker (engine/node/supervisor.h), so that both refuse in the same words. */
#ifndef ENGINE_SERVE_GATE_H
#define ENGINE_SERVE_GATE_H

#include "base/http_server.h"
#include "engine/serve/api.h"
#include "engine/serve/api_keys.h"

struct gate {
    const struct api_keys *keys;     /* NULL: no authentication; borrowed */
    const struct api_keys *node_key; /* NULL: no scheduler may ask for more than a client; borrowed */
};

enum gate_path {
    GATE_HEALTH,
    GATE_METRICS,
    GATE_MODELS,
    GATE_MODEL,
    GATE_CHAT,
    GATE_COMPLETION,
    GATE_EMBEDDINGS,
    GATE_TOKENIZE,
    GATE_DETOKENIZE,
    GATE_DRAIN,
    GATE_SLEEP,
    GATE_WAKE,
};
enum gate_needs { GATE_NEEDS_KEY = 1, GATE_NEEDS_READY = 2, GATE_NEEDS_NODE_KEY = 4 };
struct gate_route {
    const char *method, *path;
    bool is_prefix;
    enum gate_path id;
    unsigned needs; /* of enum gate_needs; READY is the caller's to ask for */
};

/* What h asks for, and who asks. NULL: refused, *e says why. The key comes first: without one nobody learns which paths
 * there are. */
const struct gate_route *gate_admit(const struct gate *g, const struct http_head *h, enum api_caller *caller,
                                    struct api_error *e);
/* Does the target of a GATE_MODEL name this model? False: *e is the 404. */
bool gate_names_model(const char *target, const char *model_id, struct api_error *e);
/* An answer with an error object and the headers it wants. scratch is empty before and after. */
void gate_reply_error(struct http_exchange *x, const struct api_error *e, struct strbuf *scratch);

#endif
