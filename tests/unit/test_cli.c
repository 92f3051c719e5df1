/* Proves what the operator sees: exit codes, texts on the right stream, mistakes with their lines, keys that fit their
 * hashes, and the ledger read offline as a table and as JSON.
 * links: spw_sched_cli */
#include "tests/unit/test.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scheduler/books/ledger.h"
#include "scheduler/cli/cli.h"

static char dir[64], out[65536], err[65536];

static void slurp(int fd, char *buf, size_t size)
{
    lseek(fd, 0, SEEK_SET);
    ssize_t n = read(fd, buf, size - 1);
    buf[n > 0 ? n : 0] = '\0';
    close(fd);
}

/* Runs the program's main with stdin from `input`; fills out and err. */
static int run(const char *input, int argc, const char **argv)
{
    int saved[3], fds[3];

    fflush(NULL);
    for (int i = 0; i < 3; i++) {
        saved[i] = dup(i);
        fds[i] = memfd_create("stream", MFD_CLOEXEC);
        if (i == 0) {
            CHECK(write(fds[0], input, strlen(input)) == (ssize_t)strlen(input));
            lseek(fds[0], 0, SEEK_SET);
        }
        dup2(fds[i], i);
    }
    clearerr(stdin);
    int code = cli_main(argc, (char **)argv);
    fflush(NULL);
    for (int i = 0; i < 3; i++) {
        dup2(saved[i], i);
        close(saved[i]);
    }
    close(fds[0]);
    slurp(fds[1], out, sizeof out);
    slurp(fds[2], err, sizeof err);
    return code;
}
#define RUN(...)                                                                                                       \
    run("", (int)(sizeof((const char *[]){"spillway", __VA_ARGS__}) / sizeof(char *)),                                 \
        (const char *[]){"spillway", __VA_ARGS__, NULL})

static void write_file(const char *name, const char *text)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    fputs(text, f);
    fclose(f);
}

static void test_verbs(void)
{
    CHECK_INT(RUN("version"), 0);
    CHECK_STR(out, "spillway " SPILLWAY_VERSION "\n");
    CHECK_INT(RUN("--help"), 0);
    CHECK(strstr(out, "usage: spillway VERB") && err[0] == '\0');
    CHECK_INT(RUN("serv"), 2);
    CHECK_STR(err, "spillway: unknown verb \"serv\"; did you mean serve?\n");
    CHECK_INT(RUN("check", "--confg", "x"), 2);
    CHECK_STR(err, "spillway check: unknown flag --confg; did you mean --config?\n");
    static const char *const verbs[] = {"serve", "check", "status", "nodes", "ledger", "keys", "help", "version"};
    for (int i = 0; i < 8; i++) {
        CHECK_INT(RUN(verbs[i], "--help"), 0);
        CHECK(strstr(out, "example:") != NULL);
        CHECK_INT(RUN("help", verbs[i]), 0);
        CHECK(strstr(out, "usage: spillway ") != NULL);
    }
    CHECK_INT(RUN("help", "config"), 0);
    CHECK(strstr(out, "routing.retries") != NULL);
    CHECK_INT(RUN("help", "nothing"), 2);
}

static void test_check(void)
{
    char path[128], expected[512];

    snprintf(path, sizeof path, "%s/s.yaml", dir);
    write_file("s.yaml", "auth: off\nnodes:\n- {name: a, url: 'http://127.0.0.1:1', models: [m, n]}\n"
                         "- {name: b, url: 'http://127.0.0.1:2', models: [m]}\n");
    CHECK_INT(RUN("check", "--config", path), 0);
    snprintf(expected, sizeof expected, "%s: good: 2 nodes, 2 models, 0 keys, 0 warnings\n", path);
    CHECK_STR(out, expected);
    CHECK_INT(RUN("check", "--config", path, "--dump"), 0);
    CHECK(strstr(out, "listen: 127.0.0.1:8080  # default\n") != NULL);
    write_file("s.yaml", "auht: off\nnodes:\n- {name: a, url: 'http://127.0.0.1:1'}\n");
    CHECK_INT(RUN("check", "--config", path), 2);
    CHECK_STR(out, "");
    snprintf(expected, sizeof expected,
             "%s:1: auht: unknown key; did you mean \"auth\"?\n"
             "%s:3: nodes[0].models: this is missing; every entry of nodes needs it\n",
             path, path);
    CHECK(strncmp(err, expected, strlen(expected)) == 0);
    CHECK(strstr(err, "spillway check: 2 mistakes in ") != NULL);
    CHECK_INT(RUN("serve", "--config", path), 2);
    CHECK_INT(RUN("nodes", "--config", path), 2);
    unlink(path);
    CHECK_INT(RUN("check", "--config", path), 2);
}

static void test_keys(void)
{
    char key[64];

    CHECK_INT(RUN("keys", "create", "--tenant", "acme", "--team", "search", "--offline", "--json"), 0);
    cJSON *made = cJSON_Parse(out);
    snprintf(key, sizeof key, "%s\n", cJSON_GetStringValue(cJSON_GetObjectItem(made, "key")));
    CHECK_INT(run(key, 3, (const char *[]){"spillway", "keys", "hash", NULL}), 0);
    out[strcspn(out, "\n")] = '\0';
    CHECK_STR(out, cJSON_GetStringValue(cJSON_GetObjectItem(made, "sha256")));
    cJSON_Delete(made);
    CHECK_INT(RUN("keys", "create", "--tenant", "acme", "--id", "k1", "--admin", "--local-only", "--offline"), 0);
    CHECK(strncmp(out, "spw_", 4) == 0);
    CHECK(strstr(out, "\nkeys:\n  - id: k1\n    sha256: ") != NULL);
    CHECK(strstr(out, "    tenant: acme\n    scope: admin\n    local_only: true\n") != NULL);
    CHECK_INT(RUN("keys", "create"), 2);
    CHECK_STR(err, "spillway keys: --tenant NAME is missing: who pays\n");
    CHECK_INT(RUN("keys", "create", "--offline", "--tenant", "a b"), 2);
    CHECK_INT(RUN("keys", "create", "--offline", "--tenant", "a", "--models", "m"), 2);
    CHECK_INT(RUN("keys", "create", "--tenant", "a", "--socket", "/no/such"), 1);
    CHECK(strstr(err, "/no/such: no scheduler can be reached there") != NULL);
    CHECK_INT(RUN("keys", "revoke"), 2);
    CHECK_INT(RUN("keys", "rotate", "k", "--grace", "soon"), 2);
    CHECK_INT(RUN("keys", "revoke", "sk-spw-x/y"), 2);
    CHECK(strstr(err, "sk-spw") == NULL); /* a key given by mistake is not repeated */
    CHECK_INT(RUN("keys", "destroy"), 2);
    CHECK_INT(RUN("keys"), 2);
    CHECK_INT(RUN("keys", "hash"), 2); /* nothing on stdin */
}

static void fill_ledger(const char *path)
{
    struct event_base *loop = event_base_new();
    const struct ledger_options o = {.path = path};
    struct ledger *l = NULL;
    struct ledger_port *port = NULL;
    struct error e;

    CHECK(ledger_open(&l, &o, &e) == RC_OK && ledger_port_new(&port, l, loop, &e) == RC_OK);
    struct ledger_row r = {.request_id = "req_1",
                           .tenant = "acme",
                           .model = "m",
                           .node = "gpu1",
                           .tokens = {1200, 200, 34},
                           .charge = {624460000},
                           .accepted = {1700000000 * NS_PER_S},
                           .finished = {1700000000 * NS_PER_S + 1234 * NS_PER_MS}};
    CHECK(ledger_append(port, &r, NULL, NULL) == RC_OK);
    r.request_id = "req_2";
    r.node = NULL;
    r.tenant = "evil\x1b[2J"; /* may not reach the terminal as it is */
    r.outcome = LEDGER_FAILED;
    r.error = "no_capacity";
    r.asked_model = "fast";
    r.service_class = "flex";
    r.cache = "hit";
    r.saved = (struct pusd){5000000000};
    r.repeat = 2;
    CHECK(ledger_append(port, &r, NULL, NULL) == RC_OK);
    ledger_port_free(port);
    ledger_close(l);
    event_base_free(loop);
}

static void test_ledger(void)
{
    char path[128];

    snprintf(path, sizeof path, "%s/ledger.db", dir);
    CHECK_INT(RUN("ledger", "--db", path), 1);
    CHECK(strstr(err, "No such file") != NULL);
    fill_ledger(path);
    CHECK_INT(RUN("ledger", "--db", path), 0);
    CHECK_STR(
        out,
        "TIME                      REQUEST  TENANT    MODEL     NODE    IN  CACHED  OUT    MS    CHARGE $  OUTCOME\n"
        "2023-11-14T22:13:20.000Z  req_2    evil?[2J  m (fast)  -     1200     200   34  1234  0.00062446  failed "
        "(no_capacity, cache hit, saved $ 0.005, repeat 2, flex)\n"
        "2023-11-14T22:13:20.000Z  req_1    acme      m         gpu1  1200     200   34  1234  0.00062446  ok\n");
    CHECK_INT(RUN("ledger", "--db", path, "--last", "1", "--json"), 0);
    cJSON *root = cJSON_Parse(out);
    const cJSON *rows = cJSON_GetObjectItem(root, "rows");
    CHECK_INT(cJSON_GetArraySize(rows), 1);
    CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(rows, 0), "request_id")), "req_2");
    cJSON_Delete(root);
    CHECK_INT(RUN("ledger", "--last", "0", "--db", path), 2);
    /* By the configuration: nobody answers on its socket, so the file is read. */
    write_file("s.yaml", "auth: off\nstate_dir: .\nnodes:\n- {name: a, url: 'http://127.0.0.1:1', models: [m]}\n");
    char config[128];
    snprintf(config, sizeof config, "%s/s.yaml", dir);
    CHECK_INT(RUN("ledger", "--config", config, "-n", "1"), 0);
    CHECK(strstr(out, "req_2") != NULL && strstr(out, "req_1") == NULL);
    CHECK_INT(RUN("status", "--config", config), 1);
    CHECK(strstr(err, "no scheduler can be reached there") != NULL);
    unlink(config);
    unlink(path);
}

static void test_targets(void)
{
    CHECK_INT(RUN("status", "--url", "https://h:1"), 2);
    CHECK_STR(err, "spillway status: --url needs --key-file: a file that holds an admin key\n");
    CHECK_INT(RUN("status", "--url", "http://10.0.0.1:8090", "--key-file", "/dev/null"), 2);
    CHECK_STR(err, "spillway status: --url: \"http://10.0.0.1:8090\" would send the key in the clear; use https\n");
    CHECK_INT(RUN("status", "--url", "http://127.0.0.1.example.com", "--key-file", "/dev/null"), 2); /* a name */
    CHECK(strstr(err, "would send the key in the clear") != NULL);
    CHECK_INT(RUN("status", "--url", "ftp://h", "--key-file", "/dev/null"), 2);
    CHECK_STR(err, "spillway status: --url: \"ftp://h\" is not a URL; write https://HOST:PORT\n");
    CHECK_INT(RUN("status", "--url", "https://h:99999", "--key-file", "/dev/null"), 2);
    CHECK_INT(RUN("status", "--url", "https://h/x", "--key-file", "/dev/null"), 2);
    CHECK_INT(RUN("nodes", "drain", "-s", "/no/such.sock"), 2);
    CHECK_STR(err, "spillway nodes: which node? write: spillway nodes drain NAME\n");
    CHECK_INT(RUN("nodes", "drain", "a/b", "-s", "/no/such.sock"), 2);
    CHECK_INT(RUN("nodes", "drain", "a", "-s", "/no/such.sock"), 1);
    CHECK_INT(RUN("nodes", "dran", "a", "-s", "/no/such.sock"), 2);
}

int main(void)
{
    unsetenv("SPILLWAY_CONFIG");
    unsetenv("SPILLWAY_SOCKET");
    snprintf(dir, sizeof dir, "/tmp/spw-cli-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    TEST(test_verbs);
    TEST(test_check);
    TEST(test_keys);
    TEST(test_ledger);
    TEST(test_targets);
    char path[128];
    snprintf(path, sizeof path, "%s/ledger.db-wal", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/ledger.db-shm", dir);
    unlink(path);
    rmdir(dir);
    return TEST_RESULT();
}
