/* The schema: nodes, models, providers and the pools of nodes that they launch. */
#include "scheduler/config/schema_table.h"

#include "policies/route.h"
#include "scheduler/config/schema_check.h"

_Static_assert(CONFIG_NODES_MAX == ROUTE_CANDIDATES_MAX, "the router must see every node");

static const char *const provider_words[] = {"static", "process", NULL};
static const char *const continue_words[] = {"off", "prefix", NULL};
static const char *const model_objective_words[] = {"default", "cost", "latency", "energy", "balanced", NULL};
static const char *const when_words[] = {"down", "full", NULL};

#define NODE(field)     .offset = offsetof(struct config_node, field)
#define MODEL(field)    .offset = offsetof(struct config_model, field)
#define PROVIDER(field) .offset = offsetof(struct config_provider, field)
#define POOL(field)     .offset = offsetof(struct config_pool, field)

static const struct setting node_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, NODE(name), .check = check_name,
     .help = "What the node is called in ledger, metrics and headers; unique."},
    {"provider", SETTING_CHOICE, NODE(provider), .choices = provider_words, .def = "static",
     .help = "`static`: a server at `url` that is there. `process`: an engine that Spillway starts on this host."},
    {"url", SETTING_TEXT, NODE(url), .check = check_url,
     .help = "static: base address of an OpenAI-compatible server, as in http://10.0.0.5:8000; /v1/... is added."},
    {"models", SETTING_WORDS, SETTING_REQUIRED | SETTING_RELOAD, NODE(models),
     .count_offset = offsetof(struct config_node, n_models),
     .help = "Models it serves, by the names that applications ask for."},
    {"upstream_model", SETTING_TEXT, SETTING_RELOAD, NODE(upstream_model), .check = check_model,
     .def_text = "the name asked for", .help = "Model name sent to the node instead."},
    {"api_key_file", SETTING_PATH, SETTING_RELOAD, NODE(api_key_file), .def_text = "none",
     .help = "static: file whose first line is the bearer token for the node."},
    {"node_key_file", SETTING_PATH, SETTING_RELOAD, NODE(node_key_file), .def_text = "none",
     .help = "static: for a spillway-engine, the file of its --node-key-file: answers can then continue on another "
             "engine when one dies. Engines of provider process get a key by themselves."},
    {"tls.ca", SETTING_PATH, NODE(tls_ca), .def_text = "the system's",
     .help = "static, https: authorities (PEM) that the node's certificate must be signed by."},
    {"tls.cert", SETTING_PATH, NODE(tls_cert), .def_text = "none",
     .help = "static, https: certificate chain (PEM) shown to a node that asks for one; with tls.key."},
    {"tls.key", SETTING_PATH, NODE(tls_key), .def_text = "none", .help = "Private key (PEM) of tls.cert."},
    {"tls.server_name", SETTING_TEXT, NODE(tls_name), .check = check_host, .def_text = "the host of url",
     .help = "static, https: name that the certificate must be for, and that is asked for (SNI)."},
    {"continue", SETTING_CHOICE, SETTING_RELOAD, NODE(continue_by), .choices = continue_words, .def = "off",
     .help = "`prefix`: the node may go on with plain text that another node began, given as the beginning of the "
             "assistant's message (vLLM, llama-server). `off`: an answer that cannot continue ends with an error."},
    {"local", SETTING_BOOL, SETTING_RELOAD, NODE(local), .def = "true",
     .help = "On the organisation's own premises; requests marked local_only go nowhere else."},
    {"slots", SETTING_INT, SETTING_RELOAD, NODE(slots), .lo = 0, .hi = 100000, .unit = "requests", .def = "0",
     .help = "Requests it takes at once; 0: unbounded."},
    {"price.input", SETTING_PRICE, SETTING_RELOAD, NODE(prices.input), .def = "0",
     .help = "Dollars per million input tokens, as in 0.55: what is charged. Routing goes by what is paid: by these "
             "for nodes "
             "that are not local, and by the energy of local ones whose watts and power.idle_watts are known."},
    {"price.cached_input", SETTING_PRICE, SETTING_RELOAD, NODE(prices.cached_input), .def_text = "price.input",
     .help = "Dollars per million input tokens that the node had cached."},
    {"price.output", SETTING_PRICE, SETTING_RELOAD, NODE(prices.output), .def = "0",
     .help = "Dollars per million output tokens."},
    {"watts", SETTING_INT, SETTING_RELOAD, NODE(watts), .lo = 0, .hi = 1000000, .unit = "watts", .def = "0",
     .help = "Declared draw under load; 0: unknown."},
    {"power.idle_watts", SETTING_INT, SETTING_RELOAD, NODE(power.idle_watts), .lo = 0, .hi = 1000000, .unit = "watts",
     .def = "0", .help = "Draw when awake without work; 0: unknown, and the node is never put to sleep."},
    {"power.sleep_watts", SETTING_INT, SETTING_RELOAD, NODE(power.sleep_watts), .lo = 0, .hi = 1000000, .unit = "watts",
     .def = "0", .help = "Draw asleep: no device context, weights in memory. Needs power.sleep_wake."},
    {"power.sleep_wake", SETTING_DURATION, SETTING_RELOAD, NODE(power.sleep_wake_ms), .lo = 0, .hi = 3600000,
     .def = "0s", .help = "From sleep until it serves; 0s: it can't sleep."},
    {"power.sleep_down", SETTING_DURATION, SETTING_RELOAD, NODE(power.sleep_down_ms), .lo = 0, .hi = 3600000,
     .def = "10s",
     .help = "From awake until it sleeps. Too long is the safe side: sleep then has to last for longer to pay."},
    {"power.off_watts", SETTING_INT, SETTING_RELOAD, NODE(power.off_watts), .lo = 0, .hi = 1000000, .unit = "watts",
     .def = "0", .help = "Draw switched off (the board's controller). Needs power.off_wake."},
    {"power.off_wake", SETTING_DURATION, SETTING_RELOAD, NODE(power.off_wake_ms), .lo = 0, .hi = 3600000, .def = "0s",
     .help = "From off until it serves; 0s: it can't be switched off."},
    {"power.off_down", SETTING_DURATION, SETTING_RELOAD, NODE(power.off_down_ms), .lo = 0, .hi = 3600000, .def = "1m",
     .help = "From awake until it is off."},
    {"power.wake_watts", SETTING_INT, SETTING_RELOAD, NODE(power.wake_watts), .lo = 0, .hi = 1000000, .unit = "watts",
     .def_text = "watts", .help = "Most that it draws while it wakes or goes down; counted against power.cap_watts."},
    {"calibration", SETTING_PATH, SETTING_RELOAD, NODE(calibration),
     .def_text = "STATE_DIR/calibration/NAME.json, if it is there",
     .help = "How fast the node is: a record of `spillway nodes calibrate`, which routing begins with and `spillway "
             "simulate` reads. Nodes of one type may share one."},
    {"kv_tokens", SETTING_INT, SETTING_RELOAD, NODE(kv_tokens), .lo = 0, .hi = 2000000000, .unit = "tokens", .def = "0",
     .help = "Tokens that its KV cache has room for, for a server that is not our engine, which says so itself; 0: "
             "unknown."},
    {"machine", SETTING_PAIRS, NODE(machine), .count_offset = offsetof(struct config_node, n_machine),
     .def_text = "its power is not touched",
     .help = "static: how the machine's power is reached, by the keys of provider `static` below."},
    {"engine", SETTING_PATH, NODE(engine), .def_text = "spillway-engine beside spillway",
     .help = "process: the engine's program file."},
    {"model_path", SETTING_PATH, NODE(model_path), .help = "process: the GGUF file to serve."},
    {"port", SETTING_INT, NODE(port), .lo = 0, .hi = 65535, .unit = "port", .def = "0",
     .help = "process: loopback port of the engine; 0: any free one."},
    {"threads", SETTING_INT, NODE(threads), .lo = 0, .hi = 1024, .unit = "threads", .def = "0",
     .help = "process: threads of the engine; 0: its own default."},
    {"ctx_size", SETTING_INT, NODE(ctx_size), .lo = 0, .hi = 10000000, .unit = "tokens", .def = "0",
     .help = "process: longest context; 0: the model's."},
    {"max_batch", SETTING_INT, NODE(max_batch), .lo = 0, .hi = 4096, .unit = "sequences", .def = "0",
     .help = "process: sequences computed together; 0: the engine's own default."},
};

SETTING_ROOM(node_rows, config_node);

const struct settings config_node_table = {"nodes", "The machines and APIs that answer requests, at least one.",
                                           SETTING_ROWS(node_rows),
                                           SETTING_ITEMS(config_node, nodes, n_nodes, CONFIG_NODES_MAX)};

static const struct setting model_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, MODEL(name), .check = check_model,
     .help = "A model that nodes serve, or a name of its own that stands for its fallbacks; unique."},
    {"aliases", SETTING_WORDS, MODEL(aliases), .count_offset = offsetof(struct config_model, n_aliases),
     .def_text = "none",
     .help = "Further names that applications may ask for. Keys, limits, metrics and ledger know it by `name`."},
    {"fallbacks", SETTING_WORDS, MODEL(fallbacks), .count_offset = offsetof(struct config_model, n_fallbacks),
     .def_text = "none",
     .help = "Models that answer in its place, tried in this order: names that nodes serve, or other entries with "
             "fallbacks of their own. Never beyond what the caller's key may use, nor, for local_only, the premises."},
    {"fallback_when", SETTING_CHOICE, MODEL(fallback_when), .choices = when_words, .def = "down",
     .help = "`down`: when no node of the model is in service (requests wait for busy ones). `full`: also when those "
             "in service have no slot free."},
    {"objective", SETTING_CHOICE, MODEL(aim.objective), .choices = model_objective_words, .def = "default",
     .help = "Instead of routing.objective."},
    {"slo_ttft", SETTING_DURATION, MODEL(aim.ttft_ms), .lo = 0, .hi = 3600000, .def = "0s",
     .help = "Instead of routing.slo_ttft; 0s: as there."},
    {"slo_ttft_per_1k", SETTING_DURATION, MODEL(aim.ttft_per_1k_ms), .lo = 0, .hi = 3600000, .def = "0s",
     .help = "Instead of routing.slo_ttft_per_1k."},
    {"slo_free_tokens", SETTING_INT, MODEL(aim.free_tokens), .lo = 0, .hi = 10000000, .unit = "tokens", .def = "0",
     .help = "Instead of routing.slo_free_tokens."},
    {"slo_tpot", SETTING_DURATION, MODEL(aim.tpot_ms), .lo = 0, .hi = 3600000, .def = "0s",
     .help = "Instead of routing.slo_tpot; 0s: as there."},
    {"slo_probability", SETTING_RATIO, MODEL(aim.probability_ppm), .def = "0",
     .help = "Instead of routing.slo_probability; 0: as there."},
    {"fallback_after", SETTING_DURATION, MODEL(fallback_after_ms), .lo = 0, .hi = 600000, .def = "0",
     .help = "With fallback_when `full`: a request waits so long for a slot first."},
    {"description", SETTING_TEXT, MODEL(description), .def_text = "none", .help = "Shown at /v1/models."},
    {"owned_by", SETTING_TEXT, MODEL(owned_by), .def = "spillway", .help = "Shown at /v1/models."},
    {"capabilities", SETTING_WORDS, MODEL(capabilities), .count_offset = offsetof(struct config_model, n_capabilities),
     .def_text = "none", .help = "Words shown at /v1/models beside what is known by itself, as in [tools, reasoning]."},
    {"context", SETTING_INT, MODEL(context), .lo = 0, .hi = 100000000, .unit = "tokens", .def = "0",
     .help = "Longest prompt and answer together, shown at /v1/models; 0: what its engines say."},
    {"max_output", SETTING_INT, MODEL(max_output), .lo = 0, .hi = 100000000, .unit = "tokens", .def = "0",
     .help = "Most tokens of one answer: nodes are sent it as max_tokens where a request names none, or more. 0: no "
             "bound."},
    {"local_only", SETTING_BOOL, MODEL(local_only), .def = "false",
     .help = "Requests for it never leave the premises, whatever its fallbacks are."},
};

SETTING_ROOM(model_rows, config_model);

const struct settings config_model_table = {
    "models",
    "What is said of models beyond who serves them: other names, who answers in their place, and what /v1/models "
    "shows. A model that nodes serve needs no entry.",
    SETTING_ROWS(model_rows), SETTING_ITEMS(config_model, models, n_models, CONFIG_MODELS_MAX)};

static const struct setting provider_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, PROVIDER(name), .check = check_name,
     .help = "What pools and metrics call it; unique."},
    {"type", SETTING_TEXT, SETTING_REQUIRED, PROVIDER(type), .help = "One of the providers below."},
    {"settings", SETTING_PAIRS, PROVIDER(pairs), .count_offset = offsetof(struct config_provider, n_pairs),
     .def_text = "none", .help = "Its own keys, below."},
};

SETTING_ROOM(provider_rows, config_provider);

const struct settings config_provider_table = {
    "providers", "Where nodes of pools come from: an account, a region, a rack. What each type needs is below.",
    SETTING_ROWS(provider_rows), SETTING_ITEMS(config_provider, providers, n_providers, CONFIG_PROVIDERS_MAX)};

static const struct setting pool_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, POOL(node.name), .check = check_name,
     .help = "Its nodes are called NAME-1, NAME-2, ...; unique among pools and nodes."},
    {"provider", SETTING_TEXT, SETTING_REQUIRED, POOL(provider),
     .help = "An entry of `providers`, or a type that needs no settings, as in process."},
    {"settings", SETTING_PAIRS, POOL(pairs), .count_offset = offsetof(struct config_pool, n_pairs), .def_text = "none",
     .help = "What each of its nodes is, by the provider's own keys below."},
    {"models", SETTING_WORDS, SETTING_REQUIRED, POOL(node.models),
     .count_offset = offsetof(struct config_pool, node.n_models),
     .help = "Models that its nodes serve, by the names that applications ask for. Demand for all of them is met "
             "together."},
    {"upstream_model", SETTING_TEXT, POOL(node.upstream_model), .check = check_model, .def_text = "the name asked for",
     .help = "Model name sent to its nodes instead."},
    {"min", SETTING_INT, POOL(min), .lo = 0, .hi = CONFIG_NODES_MAX, .unit = "nodes", .def = "0",
     .help = "So many are there whatever is foreseen."},
    {"max", SETTING_INT, POOL(max), .lo = 0, .hi = CONFIG_NODES_MAX, .unit = "nodes", .def = "1", .help = "At most."},
    {"markets", SETTING_WORDS, POOL(markets), .count_offset = offsetof(struct config_pool, n_markets),
     .def_text = "all that the provider has", .help = "spot, on-demand."},
    {"tokens_per_s", SETTING_INT, POOL(node.tokens_per_s), .lo = 0, .hi = 100000000, .unit = "tokens per second",
     .def_text = "from its calibration",
     .help = "What one of its nodes does within the SLO, prompt and answer together."},
    {"price_hour", SETTING_TEXT, POOL(price_text), .def_text = "what the provider says; else nothing",
     .help = "Dollars that a node costs per hour."},
    {"boot", SETTING_DURATION, POOL(boot_ms), .lo = 0, .hi = 7200000, .def_text = "what the provider says; else 30s",
     .help = "From launch until a node serves."},
    {"billing_min", SETTING_DURATION, POOL(billing_min_ms), .lo = 0, .hi = 86400000,
     .def_text = "what the provider says", .help = "The least that is paid of a node."},
    {"join", SETTING_EITHER, POOL(join_off), .choices = config_on_words, .def = "on",
     .help =
         "`on`: where join.listen is set and the provider is a cloud, each of its machines gets a token at its launch "
         "and "
         "serves once its engine has joined with it. `off`: what runs there is not ours or joins nobody; it is polled "
         "over plain HTTP, with node_key_file."},
    {"local", SETTING_BOOL, POOL(node.local), .def = "false",
     .help = "On the organisation's own premises; requests marked local_only go nowhere else."},
    {"slots", SETTING_INT, POOL(node.slots), .lo = 0, .hi = 100000, .unit = "requests", .def = "0",
     .help = "Requests that a node takes at once; 0: unbounded."},
    {"price.input", SETTING_PRICE, POOL(node.prices.input), .def = "0",
     .help = "Dollars per million input tokens: what is charged."},
    {"price.cached_input", SETTING_PRICE, POOL(node.prices.cached_input), .def_text = "price.input",
     .help = "Dollars per million input tokens that the node had cached."},
    {"price.output", SETTING_PRICE, POOL(node.prices.output), .def = "0", .help = "Dollars per million output tokens."},
    {"watts", SETTING_INT, POOL(node.watts), .lo = 0, .hi = 1000000, .unit = "watts", .def = "0",
     .help = "Declared draw under load; 0: unknown."},
    {"calibration", SETTING_PATH, POOL(node.calibration), .def_text = "STATE_DIR/calibration/NAME.json, if it is there",
     .help = "How fast its nodes are: a record of `spillway nodes calibrate`."},
    {"kv_tokens", SETTING_INT, POOL(node.kv_tokens), .lo = 0, .hi = 2000000000, .unit = "tokens", .def = "0",
     .help = "Tokens that a node's KV cache has room for; 0: it says so itself."},
    {"node_key_file", SETTING_PATH, POOL(node.node_key_file), .def_text = "none",
     .help = "File of the node key that its engines have, where the provider does not bring one."},
};

SETTING_ROOM(pool_rows, config_pool);

const struct settings config_pool_table = {
    "capacity.pools",
    "Nodes that are launched and ended by demand, within `capacity.max_nodes` and `capacity.max_hour`.",
    SETTING_ROWS(pool_rows), SETTING_ITEMS(config_pool, pools, n_pools, CONFIG_POOLS_MAX)};
