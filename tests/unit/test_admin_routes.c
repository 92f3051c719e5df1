/* Proves that every route of the admin API is found by its method and path and by nothing else, that names in paths are
 * bounded and decoded, that docs/ADMIN_API.md is the table's, and, over a real socket with a real front, that answers,
 * refusals and the ledger's rows come as documented and that admin.listen lets only keys of scope admin in.
 * links: spw_sched_admin */
#include "tests/unit/test.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/http_client.h"
#include "base/json.h"
#include "scheduler/admin/admin_internal.h"
#include "scheduler/auth/key_text.h"
#include "scheduler/front/who.h"

/* --- the table ---------------------------------------------------------------------------------------------- */

static char name[ADMIN_NAME_MAX + 1], allow[32];

static const struct admin_route *find(const char *method, const char *target)
{
    return admin_route_find(method, target, name, allow, sizeof allow);
}

static void test_table(void)
{
    for (int i = 0; i < admin_n_routes; i++) {
        const struct admin_route *r = &admin_routes[i];
        char target[160], *brace;
        CHECK(r->handler && r->help && r->answer);
        CHECK(strncmp(r->path, "/admin/v1/", 10) == 0 || strcmp(r->path, "/metrics") == 0);
        snprintf(target, sizeof target, "%s", r->path);
        while ((brace = strpbrk(target, "{}")))
            *brace = 'x';
        CHECK(find(r->method, target) == r); /* nothing before it takes its place */
    }
}

static void test_matching(void)
{
    const struct admin_route *r = find("GET", "/admin/v1/nodes/gpu-1.a_b");
    CHECK(r && r->handler == admin_get_node);
    CHECK_STR(name, "gpu-1.a_b");
    r = find("POST", "/admin/v1/nodes/a%2Db/drain?x=1");
    CHECK(r && r->handler == admin_drain_node);
    CHECK_STR(name, "a-b");
    r = find("GET", "/admin/v1/ledger?last=3");
    CHECK(r && r->handler == admin_get_ledger);
    CHECK(find("GET", "/admin/v1/nodes/") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/admin/v1/nodes/a/b") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/admin/v1/nodes/a%2Fb") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/admin/v1/nodes/a%00") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/admin/v1/nodes/a%2") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/admin/v1/nodesx") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/admin/v1/node") == NULL && allow[0] == '\0');
    CHECK(find("GET", "/") == NULL && find("GET", "") == NULL);
    CHECK(find("GET", "/admin/v1/drain") == NULL);
    CHECK_STR(allow, "POST");
    CHECK(find("post", "/admin/v1/drain") == NULL);
    char target[ADMIN_NAME_MAX + 40] = "/admin/v1/nodes/";
    memset(target + strlen(target), 'a', ADMIN_NAME_MAX);
    CHECK(find("GET", target) != NULL);
    target[strlen(target)] = 'a';
    CHECK(find("GET", target) == NULL && allow[0] == '\0');
}

static void test_reference_page(void)
{
    char path[256], *made = NULL;
    int here = (int)(strlen(__FILE__) - strlen("tests/unit/test_admin_routes.c"));
    struct strbuf kept;
    struct error e;
    size_t n = 0;
    FILE *out = open_memstream(&made, &n);

    admin_print_markdown(out);
    fclose(out);
    snprintf(path, sizeof path, "%.*sdocs/ADMIN_API.md", here, __FILE__);
    CHECK(file_read(&kept, path, 1 << 20, &e) == RC_OK);
    if (!kept.data || strcmp(kept.data, made) != 0)
        fprintf(stderr, "docs/ADMIN_API.md is stale: build/spillway help admin --markdown > docs/ADMIN_API.md\n");
    CHECK(kept.data && strcmp(kept.data, made) == 0);
    strbuf_fini(&kept);
    free(made);
}

/* --- the whole, on a real loop ------------------------------------------------------------------------------ */

static struct {
    char dir[64];
    struct event_base *loop;
    struct config *config;
    struct ledger *ledger;
    struct keystore *keystore;
    struct auth *auth;
    struct front *front;
    struct admin *admin;
    struct log log;
    int drains;
    char app_key[KEY_TEXT_BYTES], admin_key[KEY_TEXT_BYTES];
} w;

static void drain_cb(void *arg)
{
    (void)arg;
    w.drains++;
}

static void world_config(void)
{
    struct strbuf text, problems;
    struct error e;
    char app[KEY_HASH_BYTES], admin[KEY_HASH_BYTES];

    strbuf_init(&text, 1 << 16);
    strbuf_init(&problems, 1 << 16);
    CHECK(key_generate(w.app_key, &e) == RC_OK && key_hash(w.app_key, strlen(w.app_key), app, &e) == RC_OK);
    CHECK(key_generate(w.admin_key, &e) == RC_OK && key_hash(w.admin_key, strlen(w.admin_key), admin, &e) == RC_OK);
    CHECK(strbuf_printf(
              &text,
              "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\nstate_dir: %s\n"
              "keys:\n- {id: app, sha256: '%s', tenant: t}\n- {id: root, sha256: '%s', tenant: t, scope: admin}\n"
              "nodes:\n- {name: gpu1, url: 'http://127.0.0.1:1', models: [m], price: {input: 0.55}}\n",
              w.dir, app, admin) == RC_OK);
    CHECK(config_parse(&w.config, text.data, text.len, "admin.yaml", &problems) == RC_OK);
    CHECK_STR(problems.data ? problems.data : "", "");
    strbuf_fini(&text);
    strbuf_fini(&problems);
}

static enum rc open_auth(struct error *e)
{
    char path[96], secret[96];

    snprintf(path, sizeof path, "%s/keys.db", w.dir);
    snprintf(secret, sizeof secret, "%s/keys.secret", w.dir);
    enum rc rc = keystore_open(&w.keystore, path, secret, &clock_system, e);
    const struct who_options o = {.config = w.config, .keystore = w.keystore, .clock = &clock_system};
    return rc == RC_OK ? who_auth_new(&w.auth, &o, e) : rc;
}

static bool world_open(void)
{
    struct error e = {0};

    snprintf(w.dir, sizeof w.dir, "/tmp/spw-admin-XXXXXX");
    if (!mkdtemp(w.dir))
        return false;
    w.log = (struct log){.fd = 2, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};
    w.loop = event_base_new();
    world_config();
    const struct ledger_options lo = {.path = w.config->ledger_path};
    enum rc rc = ledger_open(&w.ledger, &lo, &e);
    if (rc == RC_OK)
        rc = open_auth(&e);
    const struct front_options fo = {
        .loop = w.loop, .config = w.config, .ledger = w.ledger, .auth = w.auth, .log = &w.log, .clock = &clock_system};
    if (rc == RC_OK)
        rc = front_new(&w.front, &fo, &e);
    const struct admin_options ao = {.loop = w.loop,
                                     .config = w.config,
                                     .front = w.front,
                                     .ledger = w.ledger,
                                     .auth = w.auth,
                                     .keystore = w.keystore,
                                     .log = &w.log,
                                     .clock = &clock_system,
                                     .drain = drain_cb};
    if (rc == RC_OK)
        rc = admin_new(&w.admin, &ao, &e);
    if (rc != RC_OK)
        fprintf(stderr, "%s\n", e.message);
    return rc == RC_OK;
}

static void world_close(void)
{
    static const char *const files[] = {"ledger.db", "ledger.db-wal", "ledger.db-shm", "admin.sock",
                                        "keys.db",   "keys.db-wal",   "keys.db-shm",   "keys.secret"};
    char path[128];

    admin_free(w.admin);
    front_free(w.front);
    ledger_close(w.ledger);
    auth_free(w.auth);
    keystore_close(w.keystore);
    config_free(w.config);
    event_base_free(w.loop);
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "%s/%s", w.dir, files[i]);
        unlink(path);
    }
    rmdir(w.dir);
}

/* One call and its answer. */
static struct {
    int status;
    bool over;
    struct strbuf body;
    char challenge[64], allow[32];
} answer;

static void on_head(struct http_call *call, const struct http_head *head, void *arg)
{
    const char *challenge = http_head_get(head, "www-authenticate"), *methods = http_head_get(head, "allow");

    (void)call, (void)arg;
    answer.status = head->status;
    snprintf(answer.challenge, sizeof answer.challenge, "%s", challenge ? challenge : "");
    snprintf(answer.allow, sizeof answer.allow, "%s", methods ? methods : "");
}

static void on_body(struct http_call *call, const char *data, size_t n, void *arg)
{
    (void)call, (void)arg;
    CHECK(strbuf_append(&answer.body, data, n) == RC_OK);
}

static void on_end(struct http_call *call, void *arg)
{
    (void)call, (void)arg;
    answer.over = true;
}

static void on_fail(struct http_call *call, enum http_phase phase, const struct error *e, void *arg)
{
    (void)phase;
    fprintf(stderr, "%s\n", e->message);
    on_end(call, arg);
}

/* token NULL: over the socket; otherwise on admin.listen. Returns the status. */
static int call_with(const char *method, const char *target, const char *token, const char *body)
{
    static const struct http_call_handlers handlers = {
        .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};
    char host[128], authorization[128];
    struct http_header header = {"Authorization", authorization};
    struct http_request r = {.method = method,
                             .target = target,
                             .headers = &header,
                             .n_headers = token && token[0],
                             .body = body,
                             .body_len = strlen(body)};
    struct http_client *c = NULL;
    struct http_call *running;
    struct error e;

    snprintf(host, sizeof host, token ? "127.0.0.1" : "unix:%s", w.config->admin_socket);
    snprintf(authorization, sizeof authorization, "Bearer %s", token ? token : "");
    answer.status = 0;
    answer.over = false;
    strbuf_fini(&answer.body);
    strbuf_init(&answer.body, 1 << 20);
    CHECK(http_client_new(&c, w.loop, host, token ? admin_port(w.admin) : 0, NULL, &e) == RC_OK);
    CHECK(http_call_start(c, &r, &handlers, NULL, &running, &e) == RC_OK);
    while (!answer.over && event_base_loop(w.loop, EVLOOP_ONCE) == 0) {
    }
    http_client_free(c);
    return answer.status;
}

static int call(const char *method, const char *target, const char *token)
{
    return call_with(method, target, token, "");
}

/* A member of the last answer, as "nodes.0.name". */
static const char *member(const char *path, char *buf, size_t size)
{
    struct error e;
    cJSON *root = NULL;
    char copy[128], *rest = copy, *word;

    buf[0] = '\0';
    if (json_parse(answer.body.data ? answer.body.data : "", answer.body.len, JSON_DEPTH_MAX, &root, &e) != RC_OK)
        return "not JSON";
    const cJSON *v = root;
    snprintf(copy, sizeof copy, "%s", path);
    while ((word = strsep(&rest, "/")))
        v = cJSON_IsArray(v) ? cJSON_GetArrayItem(v, (int)strtol(word, NULL, 10))
                             : cJSON_GetObjectItemCaseSensitive(v, word);
    if (cJSON_IsString(v))
        snprintf(buf, size, "%s", v->valuestring);
    else if (cJSON_IsNumber(v))
        snprintf(buf, size, "%g", v->valuedouble);
    else if (v)
        snprintf(buf, size, "%s", cJSON_IsTrue(v) ? "true" : cJSON_IsFalse(v) ? "false" : "other");
    cJSON_Delete(root);
    return buf;
}

static char value[256];
#define MEMBER(path) member(path, value, sizeof value)

static void test_answers(void)
{
    CHECK_INT(call("GET", "/admin/v1/status", NULL), 200);
    CHECK_STR(MEMBER("version"), SPILLWAY_VERSION);
    CHECK_STR(MEMBER("nodes"), "1");
    CHECK_STR(MEMBER("ledger/failing"), "false");
    CHECK_INT(call("GET", "/admin/v1/nodes", NULL), 200);
    CHECK_STR(MEMBER("nodes/0/name"), "gpu1");
    CHECK_STR(MEMBER("nodes/0/price_usd_per_mtok/cached_input"), "0.55");
    CHECK_INT(call("GET", "/admin/v1/nodes/nope", NULL), 404);
    CHECK_STR(MEMBER("error/code"), "not_found");
    CHECK_INT(call("POST", "/admin/v1/nodes/gpu1/drain", NULL), 200);
    CHECK_STR(MEMBER("draining"), "true");
    CHECK_INT(call("POST", "/admin/v1/nodes/gpu1/undrain", NULL), 200);
    CHECK_STR(MEMBER("draining"), "false");
    CHECK_INT(call("POST", "/admin/v1/nodes/nope/drain", NULL), 404);
    CHECK_INT(call("GET", "/admin/v1/config", NULL), 200);
    CHECK_STR(MEMBER("keys/0/sha256/value"), "***");
    CHECK_STR(MEMBER("routing.retries/source"), "default");
    CHECK_STR(MEMBER("admin.listen/source"), "line 2");
    CHECK_INT(call("GET", "/metrics", NULL), 200);
    CHECK(strstr(answer.body.data, "# TYPE ") != NULL);
    CHECK_INT(call("GET", "/nothing", NULL), 404);
    CHECK_INT(call("DELETE", "/admin/v1/nodes", NULL), 405);
    CHECK_STR(answer.allow, "GET");
    CHECK_INT(call("POST", "/admin/v1/drain", NULL), 202);
    CHECK_INT(w.drains, 1);
}

static void test_ledger(void)
{
    struct ledger_port *port = NULL;
    struct error e;

    CHECK(ledger_port_new(&port, w.ledger, w.loop, &e) == RC_OK);
    for (int i = 0; i < 30; i++) {
        char id[16];
        snprintf(id, sizeof id, "r%d", i);
        struct ledger_row row = {.request_id = id,
                                 .tenant = "t",
                                 .model = "m",
                                 .tokens = {10, 4, 3},
                                 .charge = {(int64_t)i * 1000000 + 1},
                                 .accepted = {NS_PER_S},
                                 .first_byte = {2 * NS_PER_S},
                                 .finished = {3 * NS_PER_S}};
        CHECK(ledger_append(port, &row, NULL, NULL) == RC_OK);
    }
    ledger_port_free(port); /* they are written */
    CHECK_INT(call("GET", "/admin/v1/ledger", NULL), 200);
    CHECK_STR(MEMBER("rows/0/request_id"), "r29");
    CHECK_STR(MEMBER("rows/0/charge_usd"), "0.000029000001");
    CHECK_STR(MEMBER("rows/0/total_ms"), "2000");
    CHECK_STR(MEMBER("rows/19/request_id"), "r10");
    CHECK_STR(MEMBER("rows/20/request_id"), "");
    CHECK_INT(call("GET", "/admin/v1/ledger?last=2", NULL), 200);
    CHECK_STR(MEMBER("rows/1/request_id"), "r28");
    CHECK_STR(MEMBER("rows/2/request_id"), "");
    CHECK_INT(call("GET", "/admin/v1/ledger?last=0", NULL), 400);
    CHECK_INT(call("GET", "/admin/v1/ledger?last=ten", NULL), 400);
    CHECK_INT(call("GET", "/admin/v1/ledger?last=10001", NULL), 400);
}

#define KEYS "/admin/v1/keys"

static void test_keys(void)
{
    char key[80], again[80];

    CHECK_INT(call_with("POST", KEYS, NULL,
                        "{\"tenant\":\"acme\",\"id\":\"k1\",\"scopes\":[\"admin\"],"
                        "\"models\":[\"m*\"],\"networks\":[\"127.0.0.0/8\"],"
                        "\"expires\":\"2099-01-01\"}"),
              201);
    CHECK_STR(MEMBER("id"), "k1");
    snprintf(key, sizeof key, "%s", MEMBER("key"));
    CHECK(strncmp(key, KEYSTORE_PREFIX, strlen(KEYSTORE_PREFIX)) == 0);
    CHECK_INT(call("GET", "/admin/v1/status", key), 200); /* at once */
    CHECK_INT(call_with("POST", KEYS, NULL, "{\"tenant\":\"acme\",\"id\":\"k1\"}"), 409);
    CHECK_INT(call("GET", KEYS "?tenant=acme", NULL), 200);
    CHECK(strstr(answer.body.data, key) == NULL && strstr(answer.body.data, "sha256") == NULL);
    CHECK_STR(MEMBER("keys/0/id"), "k1");
    CHECK_STR(MEMBER("keys/0/models/0"), "m*");
    CHECK_STR(MEMBER("keys/0/networks/0"), "127.0.0.0/8");
    CHECK_STR(MEMBER("keys/0/expires"), "2099-01-01T00:00:00.000Z");
    CHECK_STR(MEMBER("keys/1/id"), "");
    CHECK_INT(call("GET", KEYS, NULL), 200);
    CHECK_STR(MEMBER("keys/0/source"), "config");
    CHECK_STR(MEMBER("keys/2/source"), "store");
    CHECK_INT(call_with("POST", KEYS "/k1/rotate", NULL, "{\"grace_s\":60}"), 200);
    snprintf(again, sizeof again, "%s", MEMBER("key"));
    CHECK(strcmp(key, again) != 0);
    CHECK_INT(call("GET", "/admin/v1/status", key), 200);
    CHECK_INT(call("GET", "/admin/v1/status", again), 200);
    CHECK_INT(call("POST", KEYS "/k1/revoke", again), 200);
    CHECK_INT(call("GET", "/admin/v1/status", key), 401);
    CHECK_INT(call("GET", "/admin/v1/status", again), 401);
    CHECK_INT(call("POST", KEYS "/k1/rotate", NULL), 409);
    CHECK_INT(call("POST", KEYS "/k2/revoke", NULL), 404);
}

static void test_key_mistakes(void)
{
    static const char *const bodies[] = {
        "",
        "[]",
        "{\"tenant\":5}",
        "{\"tenant\":\"a b\"}",
        "{\"tenant\":\"a\",\"scope\":\"admin\"}",
        "{\"tenant\":\"a\",\"scopes\":[\"root\"]}",
        "{\"tenant\":\"a\",\"scopes\":[]}",
        "{\"tenant\":\"a\",\"models\":[]}",
        "{\"tenant\":\"a\",\"models\":[\"*x\"]}",
        "{\"tenant\":\"a\",\"networks\":[\"10.1.0.0/8\"]}",
        "{\"tenant\":\"a\",\"expires\":\"tomorrow\"}",
        "{\"tenant\":\"a\",\"expires\":\"2027-02-29\"}",
        "{\"tenant\":\"a\",\"rate_class\":\"none\"}",
        "{\"tenant\":\"a\",\"local_only\":\"yes\"}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        CHECK_INT(call_with("POST", KEYS, NULL, bodies[i]), 400);
        CHECK_STR(MEMBER("error/code"), "invalid_request");
    }
    CHECK_INT(call_with("POST", KEYS "/k1/rotate", NULL, "{\"grace_s\":-1}"), 400);
    CHECK_INT(call_with("POST", KEYS "/k1/rotate", NULL, "{\"grace\":1}"), 400);
    CHECK_INT(call_with("POST", KEYS, w.app_key, "{\"tenant\":\"a\"}"), 403);
}

/* A client that leaves before its rows are read, and a shutdown with a read under way: nothing leaks, nothing crashes
 * (the sanitizers' word). */
static void test_leaving(void)
{
    static const struct http_call_handlers handlers = {
        .on_head = on_head, .on_body = on_body, .on_end = on_end, .on_fail = on_fail};
    struct http_request r = {.method = "GET", .target = "/admin/v1/ledger?last=10000", .body = ""};
    struct error e;
    char host[128];

    snprintf(host, sizeof host, "unix:%s", w.config->admin_socket);
    for (int i = 0; i < 40; i++) {
        struct http_client *c = NULL;
        struct http_call *running;
        CHECK(http_client_new(&c, w.loop, host, 0, NULL, &e) == RC_OK);
        CHECK(http_call_start(c, &r, &handlers, NULL, &running, &e) == RC_OK);
        answer.over = false;
        for (int turn = 0; turn < i % 8 && !answer.over; turn++)
            event_base_loop(w.loop, EVLOOP_ONCE | EVLOOP_NONBLOCK);
        if (!answer.over)
            http_call_cancel(running);
        http_client_free(c);
    }
    CHECK_INT(call("GET", "/admin/v1/status", NULL), 200);
}

static void test_who_may(void)
{
    CHECK(admin_port(w.admin) > 0);
    CHECK_INT(call("GET", "/admin/v1/status", ""), 401);
    CHECK_STR(answer.challenge, "Bearer realm=\"spillway\"");
    CHECK_STR(MEMBER("error/code"), "unauthorized");
    CHECK_INT(call("GET", "/metrics", ""), 401);
    CHECK_INT(call("GET", "/nothing", "spw_wrong"), 401); /* what exists is nobody's business either */
    CHECK_INT(call("GET", "/admin/v1/status", w.app_key), 403);
    CHECK_STR(MEMBER("error/code"), "forbidden");
    CHECK_INT(call("POST", "/admin/v1/drain", w.app_key), 403);
    CHECK_INT(w.drains, 1);
    CHECK_INT(call("GET", "/admin/v1/status", w.admin_key), 200);
    CHECK_INT(call("GET", "/metrics", w.admin_key), 200);
    struct stat st;
    CHECK(stat(w.config->admin_socket, &st) == 0);
    CHECK_INT(st.st_mode & 0777, 0660);
}

int main(void)
{
    strbuf_init(&answer.body, 1);
    TEST(test_table);
    TEST(test_matching);
    TEST(test_reference_page);
    if (world_open()) {
        TEST(test_answers);
        TEST(test_ledger);
        TEST(test_who_may);
        TEST(test_keys);
        TEST(test_key_mistakes);
        TEST(test_leaving);
        world_close();
    } else {
        test_run_.failed++;
    }
    strbuf_fini(&answer.body);
    return TEST_RESULT();
}
