/* Every setting, one row each. A new setting is a field in struct config and a row here; parsing, bounds, `check`,
 * `--help`, docs/CONFIG.md and the masked dump follow. The order of rows is the order of the documents. */
#include "scheduler/config/config_internal.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>

#include "base/text.h"
#include "policies/route.h"

_Static_assert(CONFIG_NODES_MAX == ROUTE_CANDIDATES_MAX, "the router must see every node");

static bool check_port(const char *port, char *why, size_t size)
{
    int64_t v;

    if (text_parse_int(port, 0, 65535, &v) != RC_OK) {
        snprintf(why, size, "\"%.40s\" is not a port; 0 to 65535 is allowed", port);
        return false;
    }
    return true;
}

/* HOST:PORT, [V6]:PORT or unix:PATH. */
static bool check_address(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    const char *colon = strrchr(text, ':');

    if (strncmp(text, "unix:", 5) == 0) {
        if (text[5] != '/') {
            snprintf(why, size, "\"%.80s\" needs an absolute path, as in unix:/run/spillway.sock", text);
            return false;
        }
        return true;
    }
    if (!colon || colon == text) {
        snprintf(why, size, "\"%.80s\" is not an address; write HOST:PORT, as in 127.0.0.1:8080", text);
        return false;
    }
    if (text[0] == '[' ? colon[-1] != ']' : memchr(text, ':', (size_t)(colon - text)) != NULL) {
        snprintf(why, size, "\"%.80s\" is ambiguous; put an IPv6 address into brackets, as in [::1]:8080", text);
        return false;
    }
    if (strcspn(text, " \t/@") != strlen(text)) {
        snprintf(why, size, "\"%.80s\" is not an address; write HOST:PORT without scheme or path", text);
        return false;
    }
    return check_port(colon + 1, why, size);
}

/* http://HOST[:PORT] or https://HOST[:PORT] and nothing after it. */
static bool check_url(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    const char *host = strncmp(text, "http://", 7) == 0    ? text + 7
                       : strncmp(text, "https://", 8) == 0 ? text + 8
                                                           : NULL;

    if (!host || host[0] == '\0') {
        snprintf(why, size, "\"%.80s\" is not a URL; write http://HOST:PORT or https://HOST:PORT", text);
        return false;
    }
    if (strcspn(host, "@ \t") != strlen(host)) {
        snprintf(why, size, "a URL holds no credentials or blanks; put the node's key into api_key_file");
        return false;
    }
    size_t n = strcspn(host, "/?#");
    if (host[n] != '\0') {
        snprintf(why, size, "\"%.80s\" has a path; write %.*s, /v1/... is added", text, (int)(host + n - text), text);
        return false;
    }
    const char *colon = host[0] == '[' ? strstr(host, "]:") : strchr(host, ':');
    if (host[0] == '[' && !strchr(host, ']')) {
        snprintf(why, size, "\"%.80s\" lacks the closing bracket, as in http://[::1]:8000", text);
        return false;
    }
    return !colon || check_port(colon + (host[0] == '[' ? 2 : 1), why, size);
}

/* Names show up in headers, metrics labels, paths and columns: keep them plain. */
static bool check_name(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("-_.", text[i])) {
            snprintf(why, size, "\"%.80s\" is not a name; letters, digits, '-', '_' and '.' are allowed", text);
            return false;
        }
    if (n > 64) {
        snprintf(why, size, "the name has %zu characters; up to 64 are allowed", n);
        return false;
    }
    return true;
}

/* Model names as applications send them: printable ASCII without blanks or quotes ("deepseek-ai/DeepSeek-R1:q8"). */
static bool check_model_name(const char *text, char *why, size_t size)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++)
        if (!isgraph((unsigned char)text[i]) || strchr("\"'\\", text[i])) {
            snprintf(why, size, "\"%.80s\" is not a model name; printable characters without blanks or quotes", text);
            return false;
        }
    if (n == 0 || n > 128) {
        snprintf(why, size, "a model name has 1 to 128 characters, not %zu", n);
        return false;
    }
    return true;
}

static bool check_model(const void *field, char *why, size_t size)
{
    return check_model_name(*(const char *const *)field, why, size);
}

static bool check_hash(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;

    if (strlen(text) != 64 || strspn(text, "0123456789abcdef") != 64) {
        snprintf(why, size, "not a SHA-256 in 64 lower-case hex digits; `spillway keys hash` prints it for a key");
        return false;
    }
    return true;
}

static const char *const auth_words[] = {"keys", "off", NULL};
static const char *const scope_words[] = {"inference", "admin", NULL};
static const char *const provider_words[] = {"static", "process", NULL};
static const char *const continue_words[] = {"off", "prefix", NULL};
static const char *const level_words[] = {"debug", "info", "warn", "error", NULL};

#define MAIN(field) .offset = offsetof(struct config, field)
#define NODE(field) .offset = offsetof(struct config_node, field)
#define KEY(field)  .offset = offsetof(struct config_key, field)

static const struct setting main_rows[] = {
    {"listen", SETTING_TEXT, MAIN(listen), .def = "127.0.0.1:8080", .check = check_address,
     .help = "Where applications connect: HOST:PORT, [IPV6]:PORT or unix:PATH. Port 0 takes any free one."},
    {"tls.cert", SETTING_PATH, SETTING_RELOAD, MAIN(tls_cert), .def_text = "plain HTTP",
     .help = "Certificate chain (PEM) for `listen`; with tls.key, turns TLS on."},
    {"tls.key", SETTING_PATH, SETTING_RELOAD, MAIN(tls_key), .def_text = "plain HTTP",
     .help = "Private key (PEM) of tls.cert."},
    {"admin.socket", SETTING_PATH, MAIN(admin_socket), .def_text = "STATE_DIR/admin.sock",
     .help = "Unix socket (mode 0660) of the admin API and /metrics; the command line connects to it."},
    {"admin.listen", SETTING_TEXT, MAIN(admin_listen), .check = check_address, .def_text = "off",
     .help = "Serves the admin API and /metrics to keys of scope admin on HOST:PORT as well; "
             "beyond loopback only with TLS."},
    {"admin.tls_cert", SETTING_PATH, SETTING_RELOAD, MAIN(admin_tls_cert), .def_text = "plain HTTP",
     .help = "Certificate chain (PEM) for admin.listen."},
    {"admin.tls_key", SETTING_PATH, SETTING_RELOAD, MAIN(admin_tls_key), .def_text = "plain HTTP",
     .help = "Private key (PEM) of admin.tls_cert."},
    {"state_dir", SETTING_PATH, MAIN(state_dir), .def = "state",
     .help = "Folder for ledger and sockets; made (mode 0750) when it is missing."},
    {"ledger.path", SETTING_PATH, MAIN(ledger_path), .def_text = "STATE_DIR/ledger.db",
     .help = "The ledger's SQLite file."},
    {"ledger.queue_max", SETTING_INT, MAIN(ledger_queue_max), .lo = 64, .hi = 1000000, .unit = "rows", .def = "65536",
     .help = "Rows that may wait for the disk; beyond it new work is refused."},
    {"auth", SETTING_EITHER, SETTING_RELOAD, MAIN(auth_off), .choices = auth_words, .def = "keys",
     .help = "`keys`: requests need one of the keys below. `off`: everybody who reaches `listen` is served."},
    {"limits.body", SETTING_SIZE, SETTING_RELOAD, MAIN(body_bytes_max), .lo = 1024, .hi = INT64_C(1) << 30,
     .def = "32MiB", .help = "Largest request body; a larger one is answered with 413."},
    {"limits.connections", SETTING_INT, MAIN(connections_max), .lo = 1, .hi = 1000000, .unit = "connections",
     .def = "20000", .help = "Open connections from applications; one more is answered with 503."},
    {"health.interval", SETTING_DURATION, SETTING_RELOAD, MAIN(health_interval_ms), .lo = 50, .hi = 600000, .def = "2s",
     .help = "Time between two health checks of a node."},
    {"health.timeout", SETTING_DURATION, SETTING_RELOAD, MAIN(health_timeout_ms), .lo = 50, .hi = 60000, .def = "1s",
     .help = "A health check without an answer after this long has failed."},
    {"routing.retries", SETTING_INT, SETTING_RELOAD, MAIN(retries), .lo = 0, .hi = 16, .unit = "nodes", .def = "2",
     .help = "Other nodes tried for a request that fails before its first byte."},
    {"routing.queue", SETTING_DURATION, SETTING_RELOAD, MAIN(queue_ms), .lo = 0, .hi = 600000, .def = "10s",
     .help = "Longest wait of a request for a free slot; 0 refuses at once."},
    {"routing.queue_max", SETTING_INT, SETTING_RELOAD, MAIN(queue_max), .lo = 0, .hi = 100000, .unit = "requests",
     .def = "1024", .help = "Requests that may wait for a slot; one more is answered with 429."},
    {"routing.first_byte", SETTING_DURATION, SETTING_RELOAD, MAIN(first_byte_ms), .lo = 100, .hi = 3600000, .def = "2m",
     .help = "Longest wait for the first byte of a node's answer; then another node is tried."},
    {"routing.idle", SETTING_DURATION, SETTING_RELOAD, MAIN(idle_ms), .lo = 100, .hi = 3600000, .def = "1m",
     .help = "Longest silence of a node in the middle of an answer; then the answer is cut off."},
    {"routing.token", SETTING_DURATION, SETTING_RELOAD, MAIN(token_ms), .lo = 100, .hi = 3600000, .def = "20s",
     .help = "Longest wait for the next token of an answer that can continue on another node; then it does."},
    {"drain", SETTING_DURATION, SETTING_RELOAD, MAIN(drain_ms), .lo = 0, .hi = 3600000, .def = "30s",
     .help = "After SIGTERM running answers get this long to end."},
    {"log.level", SETTING_CHOICE, SETTING_RELOAD, MAIN(log_level), .choices = level_words, .def = "info",
     .help = "Lines below this level are dropped."},
};

static const struct setting node_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, NODE(name), .check = check_name,
     .help = "What the node is called in ledger, metrics and headers; unique."},
    {"provider", SETTING_CHOICE, NODE(provider), .choices = provider_words, .def = "static",
     .help = "`static`: a server at `url` that is there. `process`: an engine that Spillway starts on this host."},
    {"url", SETTING_TEXT, NODE(url), .check = check_url,
     .help = "static: base address of an OpenAI-compatible server, as in http://10.0.0.5:8000; /v1/... is added."},
    {"models", SETTING_WORDS, SETTING_REQUIRED, NODE(models), .count_offset = offsetof(struct config_node, n_models),
     .help = "Models it serves, by the names that applications ask for."},
    {"upstream_model", SETTING_TEXT, NODE(upstream_model), .check = check_model, .def_text = "the name asked for",
     .help = "Model name sent to the node instead."},
    {"api_key_file", SETTING_PATH, NODE(api_key_file), .def_text = "none",
     .help = "static: file whose first line is the bearer token for the node."},
    {"node_key_file", SETTING_PATH, NODE(node_key_file), .def_text = "none",
     .help = "static: for a spillway-engine, the file of its --node-key-file: answers can then continue on another "
             "engine when one dies. Engines of provider process get a key by themselves."},
    {"continue", SETTING_CHOICE, NODE(continue_by), .choices = continue_words, .def = "off",
     .help = "`prefix`: the node may go on with plain text that another node began, given as the beginning of the "
             "assistant's message (vLLM, llama-server). `off`: an answer that cannot continue ends with an error."},
    {"local", SETTING_BOOL, NODE(local), .def = "true",
     .help = "On the organisation's own premises; requests marked local_only go nowhere else."},
    {"slots", SETTING_INT, NODE(slots), .lo = 0, .hi = 100000, .unit = "requests", .def = "0",
     .help = "Requests it takes at once; 0: unbounded."},
    {"price.input", SETTING_PRICE, NODE(prices.input), .def = "0",
     .help = "Dollars per million input tokens, as in 0.55."},
    {"price.cached_input", SETTING_PRICE, NODE(prices.cached_input), .def_text = "price.input",
     .help = "Dollars per million input tokens that the node had cached."},
    {"price.output", SETTING_PRICE, NODE(prices.output), .def = "0", .help = "Dollars per million output tokens."},
    {"watts", SETTING_INT, NODE(watts), .lo = 0, .hi = 1000000, .unit = "watts", .def = "0",
     .help = "Declared draw under load; 0: unknown."},
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

static const struct setting key_rows[] = {
    {"id", SETTING_TEXT, SETTING_REQUIRED, KEY(id), .check = check_name,
     .help = "What the key is called in ledger and logs; unique."},
    {"sha256", SETTING_TEXT, SETTING_REQUIRED | SETTING_SECRET, KEY(sha256), .check = check_hash,
     .help = "SHA-256 of the key in hex; `spillway keys create` makes a key and prints this."},
    {"tenant", SETTING_TEXT, SETTING_REQUIRED, KEY(tenant), .check = check_name, .help = "Who pays."},
    {"team", SETTING_TEXT, KEY(team), .check = check_name, .def_text = "none", .help = "Part of the tenant."},
    {"scope", SETTING_EITHER, KEY(admin), .choices = scope_words, .def = "inference",
     .help = "`inference`: the endpoint for applications. `admin`: the admin API as well."},
    {"local_only", SETTING_BOOL, KEY(local_only), .def = "false",
     .help = "Requests with this key never leave the premises."},
};

#define ROWS(table) .rows = (table), .n_rows = (int)(sizeof(table) / sizeof(table)[0])

_Static_assert(sizeof main_rows / sizeof main_rows[0] <= CONFIG_SETTINGS_MAX, "room for the lines of every setting");
_Static_assert(sizeof node_rows / sizeof node_rows[0] <= CONFIG_ITEM_SETTINGS_MAX, "room for the lines of a node");

const struct settings config_tables[CONFIG_N_TABLES] = {
    [CONFIG_TABLE_MAIN] = {ROWS(main_rows), .item_size = sizeof(struct config),
                           .lines_offset = offsetof(struct config, lines)},
    [CONFIG_TABLE_NODES] = {"nodes", "The machines and APIs that answer requests, at least one.", ROWS(node_rows),
                            .item_size = sizeof(struct config_node),
                            .lines_offset = offsetof(struct config_node, lines),
                            .items_offset = offsetof(struct config, nodes),
                            .count_offset = offsetof(struct config, n_nodes),
                            .line_offset = offsetof(struct config_node, line), .items_max = CONFIG_NODES_MAX},
    [CONFIG_TABLE_KEYS] = {"keys", "The API keys of applications and operators; only hashes are kept.", ROWS(key_rows),
                           .item_size = sizeof(struct config_key), .lines_offset = offsetof(struct config_key, lines),
                           .items_offset = offsetof(struct config, keys),
                           .count_offset = offsetof(struct config, n_keys),
                           .line_offset = offsetof(struct config_key, line), .items_max = CONFIG_KEYS_MAX},
};

int config_row(const struct settings *t, const char *key)
{
    for (int i = 0; i < t->n_rows; i++)
        if (strcmp(t->rows[i].key, key) == 0)
            return i;
    return -1;
}
