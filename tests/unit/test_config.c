/* Proves that a configuration is read whole (defaults, types, nesting), that each kind of mistake is reported with its
 * exact line and text, all of them at once, and that example, reference page and schema agree.
 * links: spw_sched_config */
#include "tests/unit/test.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/yaml.h"
#include "policies/power.h"
#include "policies/tariff.h"
#include "scheduler/auth/oidc.h"
#include "scheduler/calibrate/record.h"
#include "scheduler/config/config_internal.h"

static struct strbuf problems;

static struct config *parse(const char *text)
{
    struct config *c = NULL;

    strbuf_fini(&problems);
    strbuf_init(&problems, 1 << 20);
    enum rc rc = config_parse(&c, text, strlen(text), "f.yaml", &problems);
    CHECK((rc == RC_OK) == (c != NULL));
    CHECK((rc == RC_OK) == (problems.len == 0));
    return c;
}

/* Parsing `text` fails with exactly `expected`. */
#define WRONG(text, expected)                                                                                          \
    do {                                                                                                               \
        struct config *c_ = parse(text);                                                                               \
        CHECK(c_ == NULL);                                                                                             \
        CHECK_STR(problems.data ? problems.data : "", expected);                                                       \
        config_free(c_);                                                                                               \
    } while (0)

#define NODE "nodes:\n- {name: a, url: 'http://h:1', models: [m]}\n"
#define OFF  "auth: off\n"

static void test_defaults(void)
{
    struct config *c = parse(OFF NODE);

    if (!c) {
        CHECK(!"parsed");
        return;
    }
    CHECK_STR(c->listen, "127.0.0.1:8080");
    CHECK_STR(c->state_dir, "state");
    CHECK_STR(c->admin_socket, "state/admin.sock");
    CHECK_STR(c->ledger_path, "state/ledger.db");
    CHECK(c->admin_listen == NULL && c->tls_cert == NULL);
    CHECK(c->auth_off);
    CHECK_INT(c->health_interval_ms, 2000);
    CHECK_INT(c->health_timeout_ms, 1000);
    CHECK_INT(c->retries, 2);
    CHECK_INT(c->queue[WAITING_INTERACTIVE].wait_ms, 10000);
    CHECK_INT(c->queue[WAITING_INTERACTIVE].max, 1024);
    CHECK_INT(c->queue[WAITING_BATCH].wait_ms, 600000);
    CHECK_INT(c->queue[WAITING_BATCH].bytes, 256 << 20);
    CHECK_INT(c->keep_alive_ms, 15000);
    CHECK_INT(c->first_byte_ms, 120000);
    CHECK_INT(c->idle_ms, 60000);
    CHECK_INT(c->body_bytes_max, 32 << 20);
    CHECK_INT(c->connections_max, 20000);
    CHECK_INT(c->drain_ms, 30000);
    CHECK_INT(c->log_level, LOG_INFO);
    CHECK_INT(c->n_nodes, 1);
    CHECK(c->nodes[0].local && c->nodes[0].provider == PROVIDER_STATIC && c->nodes[0].slots == 0);
    config_free(c);
}

static void test_values(void)
{
    struct config *c = parse("listen: '[::1]:0'\n"
                             "state_dir: /var/lib/spillway\n"
                             "limits: {body: 64KiB, connections: 7}\n"
                             "routing:\n"
                             "  retries: 0\n"
                             "  first_byte: 1h\n"
                             "log: {level: error}\n"
                             "queue: {interactive: {wait: 1500ms}, batch: {max: 3}}\n"
                             "keys:\n"
                             "- id: k1\n"
                             "  sha256: 0000000000000000000000000000000000000000000000000000000000000001\n"
                             "  tenant: acme\n"
                             "  scope: admin\n"
                             "  local_only: true\n"
                             "nodes:\n"
                             "- name: a\n"
                             "  url: https://api.example.com\n"
                             "  models: [m1, org/m2]\n"
                             "  local: false\n"
                             "  price: {input: 0.55, output: \"2.19\"}\n"
                             "- name: b\n"
                             "  url: http://[::1]:80\n"
                             "  models: m1\n"
                             "  price: {input: 1, cached_input: 0.0028}\n"
                             "  slots: 4\n");

    if (!c) {
        CHECK_STR(problems.data, "");
        return;
    }
    CHECK_STR(c->listen, "[::1]:0");
    CHECK_STR(c->ledger_path, "/var/lib/spillway/ledger.db");
    CHECK_INT(c->body_bytes_max, 65536);
    CHECK_INT(c->retries, 0);
    CHECK_INT(c->queue[WAITING_INTERACTIVE].wait_ms, 1500);
    CHECK_INT(c->queue[WAITING_BATCH].max, 3);
    CHECK_INT(c->first_byte_ms, 3600000);
    CHECK_INT(c->log_level, LOG_ERROR);
    CHECK(!c->auth_off && c->n_keys == 1 && c->keys[0].admin && c->keys[0].local_only);
    CHECK_INT(c->keys[0].line, 10);
    CHECK_INT(c->n_nodes, 2);
    CHECK_INT(c->nodes[0].n_models, 2);
    CHECK_STR(c->nodes[0].models[1], "org/m2");
    CHECK(!c->nodes[0].local);
    CHECK_INT(c->nodes[0].prices.input.uusd_per_mtok, 550000);
    CHECK_INT(c->nodes[0].prices.cached_input.uusd_per_mtok, 550000);
    CHECK_INT(c->nodes[0].prices.output.uusd_per_mtok, 2190000);
    CHECK_STR(c->nodes[1].models[0], "m1");
    CHECK_INT(c->nodes[1].prices.cached_input.uusd_per_mtok, 2800);
    CHECK_INT(c->nodes[1].slots, 4);
    config_free(c);
}

static void test_unknown_keys(void)
{
    WRONG(OFF NODE "lisen: 127.0.0.1:1\n", "f.yaml:4: lisen: unknown key; did you mean \"listen\"?\n");
    WRONG(OFF NODE "routing:\n  retires: 1\n", "f.yaml:5: routing.retires: unknown key; did you mean \"retries\"?\n");
    WRONG(OFF NODE "retries: 1\n",
          "f.yaml:4: retries: unknown key; did you mean \"retries\" in the section \"routing\"?\n");
    WRONG(OFF NODE "log:\n  colour: 1\n", "f.yaml:5: log.colour: unknown key; known here: level\n");
    WRONG("auth: off\nnodes:\n- name: a\n  url: http://h:1\n  models: [m]\n  prize: {input: 1}\n",
          "f.yaml:6: nodes[0].prize: unknown key; did you mean \"price\"?\n");
    WRONG(OFF NODE "log.level: info\n", "f.yaml:4: log.level: write it nested: \"level\" in the section \"log\"\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h:1', models: [\"m\\r\\nX: y\"]}\n",
          "f.yaml:3: nodes[0].models: there is a control character (0x0d) at place 2; write it without\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h:1', models: [m], api_key_file: \"/etc/\\x1b[2J\"}\n",
          "f.yaml:3: nodes[0].api_key_file: there is a control character (0x1b) at place 6; write it without\n");
    WRONG(OFF NODE "models: [{name: m, description: \"two\\nlines\"}]\n",
          "f.yaml:4: models[0].description: there is a control character (0x0a) at place 4; write it without\n");
    WRONG(OFF NODE "node: []\n", "f.yaml:4: node: unknown key; did you mean \"nodes\"?\n");
}

static void test_wrong_types(void)
{
    WRONG(OFF NODE "health: {interval: 2}\n",
          "f.yaml:4: health.interval: \"2\" is not a duration, as in 500ms, 2s or 5m\n");
    WRONG(OFF NODE "health: {interval: 1ms}\n",
          "f.yaml:4: health.interval: 1ms is out of range; 50ms to 10m is allowed\n");
    WRONG(OFF NODE "limits:\n  body: 32MB\n",
          "f.yaml:5: limits.body: \"32MB\" is not a size, as in 4096, 64KiB or 32MiB\n");
    WRONG(OFF NODE "limits:\n  body: 99999999999999999999\n",
          "f.yaml:5: limits.body: 99999999999999999999 is out of range; 1KiB to 1GiB is allowed\n");
    WRONG(OFF NODE "routing: {retries: two}\n", "f.yaml:4: routing.retries: \"two\" is not a whole number, as in 8\n");
    WRONG(OFF NODE "routing: {retries: 17}\n", "f.yaml:4: routing.retries: 17 is out of range; 0 to 16 is allowed\n");
    WRONG(OFF NODE "log: {level: warning}\n",
          "f.yaml:4: log.level: \"warning\" is unknown; one of debug, info, warn, error is right\n");
    WRONG(OFF NODE "log: {level: wran}\n",
          "f.yaml:4: log.level: \"wran\" is unknown; did you mean \"warn\"? (debug, info, warn, error)\n");
    WRONG("auth: off\nnodes: [{name: a, url: 'http://h', models: [m], local: yes}]\n",
          "f.yaml:2: nodes[0].local: \"yes\" is neither true nor false\n");
    WRONG(
        "auth: off\nnodes: [{name: a, url: 'http://h', models: [m], price: {input: cheap}}]\n",
        "f.yaml:2: nodes[0].price.input: \"cheap\" is not a price; dollars per million tokens, at most 6 decimals, as "
        "in 0.55\n");
    WRONG(OFF NODE "listen: [a]\n", "f.yaml:4: listen: this must be one value, not a list\n");
    WRONG(OFF NODE "listen: {a: b}\n", "f.yaml:4: listen: this must be one value, not a section\n");
    WRONG(OFF NODE "listen:\n", "f.yaml:4: listen: there is no value; give one or leave the line out\n");
    WRONG(OFF NODE "listen: ''\n", "f.yaml:4: listen: the value is empty; give one or leave the line out\n");
    WRONG(OFF NODE "tls: on\n", "f.yaml:4: tls: this is a section; write its keys indented below it\n");
    WRONG(OFF "nodes: {name: a}\n", "f.yaml:2: nodes: this must be a list; start each entry with \"- \"\n");
    WRONG(OFF "nodes:\n- gpu1\n",
          "f.yaml:3: nodes[0]: an entry of nodes is a section of keys, as in \"- name: ...\"\n");
    WRONG("- a\n", "f.yaml:1: file: the file must be keys with values, as in \"listen: 127.0.0.1:8080\"\n"
                   "f.yaml: nodes: there is no node; add at least one entry with name, url and models\n");
}

static void test_addresses(void)
{
    WRONG(OFF NODE "listen: 8080\n",
          "f.yaml:4: listen: \"8080\" is not an address; write HOST:PORT, as in 127.0.0.1:8080\n");
    WRONG(OFF NODE "listen: 127.0.0.1:80800\n", "f.yaml:4: listen: \"80800\" is not a port; 0 to 65535 is allowed\n");
    WRONG(OFF NODE "listen: ::1:80\n",
          "f.yaml:4: listen: \"::1:80\" is ambiguous; put an IPv6 address into brackets, as in [::1]:8080\n");
    WRONG(OFF NODE "listen: http://127.0.0.1:80\n",
          "f.yaml:4: listen: \"http://127.0.0.1:80\" is not an address; write HOST:PORT without scheme or path\n");
    /* What may be a password is not shown, whatever else is wrong. */
    WRONG(OFF NODE "listen: u:secret@h:1\ncache: {mode: redis, redis: {address: 'redis://u:secret@h:1'}}\n"
                   "reports: {mail: {server: 'mail://u:secret@h', from: a@x, to: [a@x]}}\n"
                   "tracing: {endpoint: 'otlp://u:secret@h'}\n",
          "f.yaml:4: listen: an address holds no credentials; user and file of the password have keys of their own\n"
          "f.yaml:5: cache.redis.address: an address holds no credentials; user and file of the password have keys of "
          "their own\n"
          "f.yaml:6: reports.mail.server: an address holds no credentials; user and file of the password have keys of "
          "their own\n"
          "f.yaml:7: tracing.endpoint: an address holds no credentials; user and file of the password have keys of "
          "their own\n");
    WRONG(OFF NODE "listen: unix:sock\n",
          "f.yaml:4: listen: \"unix:sock\" needs an absolute path, as in unix:/run/spillway.sock\n");
    WRONG(OFF NODE "admin: {listen: '0.0.0.0:9000'}\n",
          "f.yaml:4: admin.listen: \"0.0.0.0:9000\" is reachable from other machines, so it needs TLS; set "
          "admin.tls_cert and admin.tls_key, or listen on 127.0.0.1\n");
    WRONG(OFF NODE "tls: {cert: a.pem}\n",
          "f.yaml:4: tls.cert: needs tls.key beside it: the certificate's private key\n");
    WRONG(OFF NODE "admin: {tls_key: a.pem}\n",
          "f.yaml:4: admin.tls_key: needs admin.tls_cert beside it: the certificate of this key\n");
    WRONG(OFF NODE "tls: {cert: /no/c.pem, key: /no/k.pem}\n",
          "f.yaml:4: tls.cert: /no/c.pem: cannot be read: No such file or directory\n");
}

static void test_node_mistakes(void)
{
    WRONG(OFF, "f.yaml: nodes: there is no node; add at least one entry with name, url and models\n");
    WRONG(OFF "nodes:\n- {}\n", "f.yaml:3: nodes[0].name: this is missing; every entry of nodes needs it\n"
                                "f.yaml:3: nodes[0].models: this is missing; every entry of nodes needs it\n"
                                "f.yaml:3: nodes[0].url: this is missing; provider static needs the server's "
                                "address, as in http://10.0.0.5:8000\n");
    WRONG(OFF NODE "- {name: a, url: 'http://h:2', models: [m]}\n",
          "f.yaml:4: nodes[1].name: \"a\" is also the name of the node at line 3; every node needs its own\n");
    WRONG(OFF "nodes:\n- {name: a b, url: 'http://h:2', models: [m]}\n",
          "f.yaml:3: nodes[0].name: \"a b\" is not a name; letters, digits, '-', '_' and '.' are allowed\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'ftp://h:2', models: [m]}\n",
          "f.yaml:3: nodes[0].url: \"ftp://h:2\" is not a URL; write http://HOST:PORT or https://HOST:PORT\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h:2/v1', models: [m]}\n",
          "f.yaml:3: nodes[0].url: \"http://h:2/v1\" has a path; write http://h:2, /v1/... is added\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://u:p@h:2', models: [m]}\n- {name: b, url: 'u:p@h:2', models: [m]}\n",
          "f.yaml:3: nodes[0].url: a URL holds no credentials or blanks; put the node's key into api_key_file\n"
          "f.yaml:4: nodes[1].url: a URL holds no credentials or blanks; put the node's key into api_key_file\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h:x', models: [m]}\n",
          "f.yaml:3: nodes[0].url: \"x\" is not a port; 0 to 65535 is allowed\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h', models: []}\n",
          "f.yaml:3: nodes[0].models: there is no model in it; a node serves at least one\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h', models: [m, n, m]}\n",
          "f.yaml:3: nodes[0].models: \"m\" is listed twice\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h', models: [m], api_key_file: /no/such}\n",
          "f.yaml:3: nodes[0].api_key_file: /no/such: No such file or directory\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h', models: [m], threads: 2}\n",
          "f.yaml:3: nodes[0].threads: means nothing for provider static; remove it, or set provider: process\n");
    WRONG(OFF "nodes:\n- name: a\n  provider: process\n  models: [m]\n  url: http://h\n",
          "f.yaml:3: nodes[0].model_path: this is missing; provider process needs the GGUF file to serve\n"
          "f.yaml:6: nodes[0].url: means nothing for provider process; remove it, or set provider: static\n");
    WRONG(OFF "nodes:\n- {name: a, provider: process, models: [m], model_path: /tmp, engine: /no/engine}\n",
          "f.yaml:3: nodes[0].engine: /no/engine: No such file or directory\n"
          "f.yaml:3: nodes[0].model_path: /tmp is not a file\n");
}

static void test_energy(void)
{
    WRONG(OFF NODE "energy: {hours: [noon], time_zone: Mars/Base}\npower: {cap_watts: 1}\n",
          "f.yaml:3: nodes[0].watts: power.cap_watts can't be kept without it: what a local node draws under load\n"
          "f.yaml:4: energy.hours: needs energy.price beside it: what holds at all other times\n"
          "f.yaml:4: energy.hours: \"noon\" is no price by time: as in \"mon-fri 07:00-20:00 0.25\"\n"
          "f.yaml:4: energy.time_zone: there is no time zone \"Mars/Base\" in the system's tz data "
          "(/usr/share/zoneinfo); "
          "write one like Europe/Berlin, or UTC\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h:1', models: [m], watts: 4, power: {off_watts: 1, sleep_wake: 1s}}\n",
          "f.yaml:3: nodes[0].power.off_watts: needs power.off_wake beside it: how long it takes to come back\n"
          "f.yaml:3: nodes[0].power.idle_watts: power.idle_watts and watts (under load) are both needed to know what "
          "sleeping saves\n");
    struct config *c =
        parse(OFF "nodes:\n- {name: a, url: 'http://h:1', models: [m], watts: 450, power: {idle_watts: 100, "
                  "sleep_watts: 62, sleep_wake: 10s}}\nenergy: {price: 0.08, hours: ['07:00-20:00 0.2']}\n"
                  "power: {cap_watts: 500}\n");
    CHECK(c && c->nodes[0].levels && c->nodes[0].levels->of[POWER_SLEEP].idle_mw == 62000);
    CHECK(c && tariff_at(c->tariff, 8 * 3600) == 200000 && tariff_at(c->tariff, 0) == 80000);
    config_free(c);
}

static void test_reports(void)
{
    WRONG(OFF NODE "reports:\n  at: '24:00'\n  time_zone: Mars/Base\n  periods: [week]\n  formats: [pdf]\n"
                   "  mail: {user: u, to: [Ann <a@x>]}\n  webhook: {ca: f.yaml}\n  teams:\n  - {team: a, to: [a@x]}\n",
          "f.yaml:5: reports.at: this is no time of day; write \"06:00\", in quotes, from 00:00 to 23:59\n"
          "f.yaml:6: reports.time_zone: there is no time zone \"Mars/Base\" in the system's tz data "
          "(/usr/share/zoneinfo); write one like Europe/Berlin, or UTC\n"
          "f.yaml:7: reports.periods: \"week\" is none of day, month\n"
          "f.yaml:8: reports.formats: \"pdf\" is none of html, csv, json, md\n"
          "f.yaml:9: reports.mail.to: means nothing without reports.mail.server\n"
          "f.yaml:9: reports.mail.user: means nothing without reports.mail.server\n"
          "f.yaml:9: reports.mail.to: \"Ann <a@x>\" is no mail address; write it bare, as in finance@example.com\n"
          "f.yaml:9: reports.mail.user: needs reports.mail.password_file beside it\n"
          "f.yaml:10: reports.webhook.ca: means nothing without reports.webhook.url\n"
          "f.yaml:10: reports.webhook.ca: f.yaml: No such file or directory\n"
          "f.yaml:12: reports.teams[0].team: means nothing without reports.mail.server\n");
    WRONG(OFF NODE "reports:\n  mail:\n    server: smtp://mail:25/inbox\n    from: us\n    to: [a@x]\n"
                   "  teams:\n  - {team: a, to: []}\n  - {team: a, to: ['a@b@c']}\n",
          "f.yaml:6: reports.mail.server: \"smtp://mail:25/inbox\" is not a mail server; write smtp://HOST:587 or "
          "smtps://HOST:465, without credentials\n"
          "f.yaml:7: reports.mail.from: \"us\" is no mail address; write it bare, as in finance@example.com\n"
          "f.yaml:10: reports.teams[0].to: there is no address in it\n"
          "f.yaml:11: reports.teams[1].team: \"a\" stands at line 10 as well; put all addresses into one\n"
          "f.yaml:11: reports.teams[1].to: \"a@b@c\" is no mail address; write it bare, as in finance@example.com\n");
    WRONG(OFF "ledger: off\n" NODE "reports: {at: '06:00', mail: {server: 'smtp://mail', starttls: optional, user: u, "
              "password_file: /dev/zero}}\n",
          "f.yaml:5: reports.at: with ledger: off there is nothing to report\n"
          "f.yaml:5: reports.mail.server: needs reports.mail.from beside it: the sender's address\n"
          "f.yaml:5: reports.mail.server: needs reports.mail.to or reports.teams: who gets the mail\n"
          "f.yaml:5: reports.mail.starttls: the password could go over the wire in the clear; write required, or "
          "smtps:// above\n"
          "f.yaml:5: reports.mail.password_file: /dev/zero is not a file\n");
    /* A name is not this machine because it begins like it. */
    WRONG(OFF NODE
          "reports: {at: '06:00', mail: {server: 'smtp://localhost.example.com:25', starttls: optional, user: u, "
          "password_file: spillway.yaml, from: a@x, to: [b@x]}}\n",
          "f.yaml:4: reports.mail.starttls: the password could go over the wire in the clear; write required, or "
          "smtps:// above\n"
          "f.yaml:4: reports.mail.password_file: spillway.yaml: No such file or directory\n");
    struct config *c = parse(OFF NODE "energy: {time_zone: Europe/Berlin}\nreports: {at: '06:30', periods: [month], "
                                      "mail: {server: 'smtps://mail', from: a@x, to: [b@x]}}\n");
    CHECK(c && c->reports.at_s == 23400 && c->reports.by_month && !c->reports.by_day);
    CHECK(c && c->reports.zone && zone_offset(c->reports.zone, 1750000000) == 7200);
    CHECK_STR(c ? c->reports.zone_name : "", "Europe/Berlin");
    CHECK_STR(c ? c->reports.folder : "", "state/reports");
    config_free(c);
    c = parse(OFF NODE);
    CHECK(c && c->reports.at_s == -1 && c->reports.by_month && c->reports.by_day && !c->reports.zone);
    config_free(c);
}

#define HASH_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void test_key_mistakes(void)
{
    WRONG(NODE "keys:\n- {id: k, sha256: sk-123, tenant: t}\n",
          "f.yaml:4: keys[0].sha256: not a SHA-256 in 64 lower-case hex digits; `spillway keys hash` prints it for a "
          "key\n");
    WRONG(NODE "keys:\n- {id: k, sha256: " HASH_A ", tenant: t}\n- {id: k, sha256: " HASH_B ", tenant: t}\n",
          "f.yaml:5: keys[1].id: \"k\" is also the id of the key at line 4; every key needs its own\n");
    WRONG(NODE "keys:\n- {id: k, sha256: " HASH_A ", tenant: t}\n- {id: l, sha256: " HASH_A ", tenant: t}\n",
          "f.yaml:5: keys[1].sha256: the same key as the one at line 4; make another with `spillway keys create "
          "--offline`\n");
    WRONG(NODE "keys:\n- {id: k, sha256: " HASH_A "}\n",
          "f.yaml:4: keys[0].tenant: this is missing; every entry of keys needs it\n");
}

#define KEY_A NODE "keys:\n- {id: k, sha256: " HASH_A ", tenant: t, "

static void test_who(void)
{
    struct config *c = parse(NODE "auth: {mode: off}\n");
    CHECK(c && c->auth_off);
    config_free(c);
    c = parse("auth:\n  mode: keys\n  issuers: [{name: i, issuer: 'https://i.example', audiences: [a], tenant: t,"
              " algs: [ES256, EdDSA], skew: 0, default_scopes: [usage]}]\n"
              "limits: {key: c, classes: [{name: c, requests_per_min: 5, concurrent: 2}]}\n" KEY_A
              "scopes: [usage], models: ['m*'], networks: [10.0.0.0/8], expires: 2030-01-01, rate_class: c}\n");
    CHECK_STR(problems.data ? problems.data : "", "");
    if (c) {
        struct network networks[1];
        struct identity who;
        struct oidc_issuer issuer;
        struct error e;
        int64_t expires_s = 0;
        CHECK(config_key_identity(&c->keys[0], &who, networks, &expires_s, &e) == RC_OK);
        CHECK_INT(who.scopes, AUTH_SCOPE_USAGE);
        CHECK_INT(expires_s, 1893456000);
        CHECK(identity_may_use(&who, "m1") && !identity_may_use(&who, "n"));
        CHECK(network_allows(who.networks, who.n_networks, "10.1.2.3") &&
              !network_allows(who.networks, who.n_networks, "11.1.2.3"));
        config_issuer_oidc(&c->issuers[0], &issuer);
        CHECK(issuer.skew_s < 0 && issuer.default_scopes == AUTH_SCOPE_USAGE);
        CHECK_INT(issuer.algs, 1u << JWT_ES256 | 1u << JWT_EDDSA);
        CHECK(config_class(c, c->class_key) == &c->classes[0] && !config_class(c, NULL));
    }
    config_free(c);
}

static void test_who_mistakes(void)
{
    WRONG(KEY_A "models: []}\n", "f.yaml:4: keys[0].models: the list is empty, so the key could do nothing; leave the "
                                 "line out to allow all\n");
    WRONG(KEY_A "scopes: [root]}\n",
          "f.yaml:4: keys[0].scopes: \"root\" is not a scope; inference, usage and admin are\n");
    WRONG(KEY_A "scopes: [usage], scope: admin}\n", "f.yaml:4: keys[0].scopes: give either `scope` or `scopes`\n");
    WRONG(KEY_A "expires: 2030-02-30}\n",
          "f.yaml:4: keys[0].expires: not a time; write 2027-01-01 or 2027-01-01T12:00:00Z (UTC)\n");
    WRONG(KEY_A "rate_class: c}\n", "f.yaml:4: keys[0].rate_class: there is no class \"c\" in limits.classes\n");
    WRONG(OFF NODE "limits: {team: c}\n", "f.yaml:4: limits.team: there is no class \"c\" in limits.classes\n");
    WRONG(OFF NODE "limits: {classes: [{name: c, tokens_burst: 5}]}\n",
          "f.yaml:4: limits.classes[0].tokens_burst: means nothing without tokens_per_min\n");
    WRONG(OFF NODE "limits.classes: []\n",
          "f.yaml:4: limits.classes: write it nested: \"classes\" in the section \"limits\"\n");
    WRONG(NODE "auth: {issuer: []}\n", "f.yaml:3: auth.issuer: unknown key; did you mean \"issuers\"?\n");
    WRONG(NODE "auth:\n  issuers:\n  - {name: i, issuer: 'https://i.example', audiences: [a]}\n",
          "f.yaml:5: auth.issuers[0].issuer: issuer i: give either `tenant` or `tenant_claim`\n");
    WRONG(NODE
          "auth:\n  issuers:\n  - {name: i, issuer: 'https://i.example', audiences: [a], tenant: t, algs: [none]}\n",
          "f.yaml:5: auth.issuers[0].algs: \"none\" is not an algorithm that is taken\n");
}

#define MODELS OFF NODE "- {name: b, url: 'http://h:2', models: [x, y]}\nmodels:\n"

static void test_models(void)
{
    const char *chain[CONFIG_CHAIN_MAX];
    struct config *c = parse(MODELS "- {name: m, aliases: [gpt-4, g], fallbacks: [v, x], max_output: 7}\n"
                                    "- name: v\n"
                                    "  fallbacks: [y, x]\n"
                                    "  fallback_when: full\n"
                                    "  fallback_after: 2s\n");
    if (!c) {
        CHECK(!"parsed");
        return;
    }
    CHECK_INT(c->n_models, 2);
    CHECK(config_model(c, "m") == &c->models[0] && !config_model(c, "x") && !config_model(c, "g"));
    CHECK(config_alias(c, "g") == &c->models[0] && !config_alias(c, "m"));
    CHECK(config_model_served(c, "y") && !config_model_served(c, "v"));
    CHECK_INT(c->models[0].max_output, 7);
    CHECK_INT(c->models[1].fallback_after_ms, 2000);
    CHECK_STR(c->models[0].owned_by, "spillway");
    CHECK_INT(config_model_chain(c, "m", chain), 3); /* v is nobody's own, and x comes but once */
    CHECK_STR(chain[0], "m");
    CHECK_STR(chain[1], "y");
    CHECK_STR(chain[2], "x");
    CHECK_INT(config_model_chain(c, "v", chain), 2);
    CHECK_INT(config_model_chain(c, "x", chain), 1);
    CHECK_INT(config_model_chain(c, "nobody", chain), 0);
    config_free(c);
}

static void test_model_mistakes(void)
{
    WRONG(MODELS "- {name: m}\n- {name: m}\n",
          "f.yaml:7: models[1].name: \"m\" is also the name of the entry at line 6; a name means one model\n");
    WRONG(MODELS "- {name: m, aliases: [x]}\n",
          "f.yaml:6: models[0].aliases: \"x\" is also a model of the node at line 4; a name means one model\n");
    WRONG(MODELS "- {name: m, aliases: [a]}\n- {name: x, aliases: [a, m]}\n",
          "f.yaml:7: models[1].aliases: \"a\" is also an alias of the entry at line 6; a name means one model\n"
          "f.yaml:7: models[1].aliases: \"m\" is also the name of the entry at line 6; a name means one model\n");
    WRONG(MODELS "- {name: m, aliases: ['a b', 'c*']}\n",
          "f.yaml:6: models[0].aliases: \"a b\" is not a name; 1 to 128 printable characters without blanks, quotes "
          "or '*'\n"
          "f.yaml:6: models[0].aliases: \"c*\" is not a name; 1 to 128 printable characters without blanks, quotes or "
          "'*'\n");
    WRONG(MODELS "- {name: m}\n- {name: nobodys}\n",
          "f.yaml:7: models[1].name: no node serves it, and it has no fallbacks that one serves\n");
    WRONG(MODELS "- {name: m, aliases: [a], fallbacks: [y, distil, a, y]}\n- {name: distill, fallbacks: [a]}\n",
          "f.yaml:6: models[0].fallbacks: \"distil\" is served by no node, and is no entry of models; did you mean "
          "\"distill\"?\n"
          "f.yaml:6: models[0].fallbacks: \"a\" is an alias; write \"m\"\n"
          "f.yaml:6: models[0].fallbacks: \"y\" is listed twice\n"
          "f.yaml:7: models[1].fallbacks: \"a\" is an alias; write \"m\"\n");
    WRONG(MODELS "- {name: m, fallbacks: [x]}\n- {name: x, fallbacks: [y, m]}\n- {name: y, fallbacks: [y]}\n",
          "f.yaml:6: models[0].fallbacks: they lead back to themselves, or to more than 16 models\n"
          "f.yaml:7: models[1].fallbacks: they lead back to themselves, or to more than 16 models\n"
          "f.yaml:8: models[2].fallbacks: they lead back to themselves, or to more than 16 models\n");
    WRONG(MODELS "- {name: m, fallback_when: full}\n- {name: x, fallbacks: [y], fallback_after: 1s}\n",
          "f.yaml:6: models[0].fallback_when: means nothing without fallbacks\n"
          "f.yaml:7: models[1].fallback_after: means nothing unless fallback_when is full\n");
    WRONG(MODELS "- {name: m, context: -1}\n- {aliases: [q]}\n",
          "f.yaml:6: models[0].context: -1 is out of range; 0 to 100000000 is allowed\n"
          "f.yaml:7: models[1].name: this is missing; every entry of models needs it\n");
    WRONG(OFF "nodes:\n- {name: a, url: 'http://h', models: ['m\\r\\n', ok]}\n",
          "f.yaml:3: nodes[0].models: \"m\\r\\n\" is not a model name; 1 to 128 printable characters without blanks, "
          "quotes or '*'\n");
}

static void test_cache_and_tracing(void)
{
    struct config *c = parse(OFF NODE);
    CHECK(c && c->cache.mode == CONFIG_CACHE_LRU && c->cache.redis_local && !c->tracing.endpoint);
    CHECK(c && c->tracing.sample_ppm == 10000 && c->tracing.mode == CONFIG_TRACING_PARENT);
    config_free(c);
    c = parse(OFF NODE "cache: {mode: redis, redis: {address: 'far:6379'}}\n"
                       "tracing: {endpoint: 'https://c:4318/otlp', sample: 1, mode: ratio}\n");
    CHECK(c && c->cache.mode == CONFIG_CACHE_REDIS && !c->cache.redis_local && c->cache.redis_timeout_ms == 50);
    CHECK(c && c->tracing.sample_ppm == 1000000 && c->tracing.mode == CONFIG_TRACING_RATIO);
    config_free(c);
    WRONG(
        OFF NODE "cache: {redis: {local: true}}\n",
        "f.yaml:4: cache.redis.local: means nothing unless cache.mode is redis; remove it, or set cache.mode: redis\n");
    WRONG(OFF NODE "cache: {max_bytes: 1MiB, max_entry: 2MiB}\n",
          "f.yaml:4: cache.max_entry: one answer may be larger (2097152 bytes) than all of them together (1048576 "
          "bytes)\n");
    WRONG(OFF NODE "budget_webhook: {url: 'http://h/x', token_file: /no/t, ca: /no/c}\n"
                   "audit: {heads: {webhook: 'http://h/x', token_file: /no/t, ca: /no/c}}\n",
          "f.yaml:4: budget_webhook.token_file: /no/t: No such file or directory\n"
          "f.yaml:4: budget_webhook.ca: /no/c: No such file or directory\n"
          "f.yaml:5: audit.heads.token_file: /no/t: No such file or directory\n"
          "f.yaml:5: audit.heads.ca: /no/c: No such file or directory\n");
    WRONG(OFF NODE "cache: {mode: redis, redis: {username: u}}\n",
          "f.yaml:4: cache.redis.username: needs cache.redis.password_file beside it\n");
    /* TLS by the address's scheme. */
    WRONG(OFF NODE "cache: {mode: redis, redis: {address: 'rediss://unix:/run/redis.sock'}}\n",
          "f.yaml:4: cache.redis.address: \"rediss://unix:/run/redis.sock\": TLS is for HOST:PORT; a unix socket needs "
          "none\n");
    WRONG(OFF NODE "cache: {mode: redis, redis: {address: 'r:1', tls: {ca: /x}}}\n",
          "f.yaml:4: cache.redis.tls.ca: means nothing for an address without rediss:// before it\n");
    WRONG(OFF NODE "cache: {mode: redis, redis: {address: 'rediss://r:1', tls: {cert: /x}}}\n",
          "f.yaml:4: cache.redis.tls.cert: needs cache.redis.tls.key beside it\n");
    WRONG(OFF NODE "budget_store: {kind: redis, address: 'rediss://r:1', tls: {ca: /no/such}}\n",
          "f.yaml:4: budget_store.tls.ca: /no/such: cannot be read: No such file or directory\n");
    WRONG(OFF NODE "tracing: {sample: 1.5}\n",
          "f.yaml:4: tracing.sample: \"1.5\" is not a share; 0 to 1 with at most 6 decimals, as in 0.01\n");
    WRONG(OFF NODE "tracing: {endpoint: 'c:4318'}\n",
          "f.yaml:4: tracing.endpoint: \"c:4318\" is not a URL; write http://HOST:4318 or https://HOST:4318\n");
}

static void test_all_at_once_in_order(void)
{
    WRONG(OFF NODE "routing: {queue: 10s}\n",
          "f.yaml:4: routing.queue: unknown key; \"queue\" is a section at the top of the file\n");
    WRONG("lisen: a\n"
          "auth: of\n"
          "health:\n"
          "  timeout: 5s\n"
          "nodes:\n"
          "- name: a\n"
          "  url: h\n"
          "  models: [m]\n"
          "  slots: -1\n"
          "queue:\n"
          "  batch_after: 1w\n",
          "f.yaml:1: lisen: unknown key; did you mean \"listen\"?\n"
          "f.yaml:2: auth: \"of\" is unknown; did you mean \"off\"? (keys, off)\n"
          "f.yaml:4: health.timeout: the timeout (5000 ms) is longer than the interval (2000 ms); a check must end "
          "before the next\n"
          "f.yaml:7: nodes[0].url: \"h\" is not a URL; write http://HOST:PORT or https://HOST:PORT\n"
          "f.yaml:9: nodes[0].slots: -1 is out of range; 0 to 100000 is allowed\n"
          "f.yaml:11: queue.batch_after: \"1w\" is not a duration, as in 500ms, 2s or 5m\n");
}

static void test_not_yaml(void)
{
    struct config *c = parse("listen: [\n");

    CHECK(c == NULL);
    CHECK(strncmp(problems.data, "f.yaml:", 7) == 0);
    c = parse("listen: a:1\nlisten: b:1\n");
    CHECK(c == NULL);
    CHECK(strncmp(problems.data, "f.yaml:2: listen: ", 18) == 0);
}

/* More mistakes than are listed: the count says so, nothing overruns. */
static void test_many_problems(void)
{
    struct strbuf text;

    strbuf_init(&text, 1 << 20);
    for (int i = 0; i < CONFIG_PROBLEMS_MAX + 50; i++)
        CHECK(strbuf_printf(&text, "zzzzzz%d: 1\n", i) == RC_OK);
    CHECK(parse(text.data) == NULL);
    CHECK(strstr(problems.data, "f.yaml: 51 more mistakes\n") != NULL);
    strbuf_fini(&text);
}

static void test_warnings(void)
{
    struct config *c = parse("listen: 0.0.0.0:80\nauth: off\nnodes:\n- {name: a, url: 'http://h', models: [m], local: "
                             "false}\n");
    struct strbuf out;

    strbuf_init(&out, 1 << 16);
    CHECK_INT(config_warnings(c, &out), 3);
    CHECK_STR(out.data,
              "f.yaml:2: auth: off, and listen is \"0.0.0.0:80\": everybody who reaches it is served\n"
              "f.yaml:1: listen: plain HTTP beyond loopback; set tls.cert and tls.key, or put a TLS proxy "
              "before it\n"
              "f.yaml:4: nodes[0].price: node \"a\" is not local and has no price: it looks free of charge\n");
    config_free(c);
    strbuf_clear(&out);
    c = parse("keys: [{id: k, tenant: t, local_only: true, sha256: " HASH_A "}]\nnodes:\n"
              "- {name: a, url: 'http://h', models: [m], local: false, price: {input: 1}}\n");
    CHECK_INT(config_warnings(c, &out), 1);
    CHECK(out.data && strstr(out.data, "f.yaml:3: nodes[0].local: every key is local_only, so node \"a\" is never"));
    config_free(c);
    strbuf_clear(&out);
    c = parse(NODE "keys:\n"
                   "- {id: k, tenant: t, sha256: " HASH_A ", models: [v, al]}\n"
                   "models:\n- {name: v, aliases: [al], fallbacks: [m]}\n");
    CHECK_INT(config_warnings(c, &out), 2);
    CHECK_STR(out.data, "f.yaml:4: keys[0].models: \"al\" is an alias and opens nothing; write \"v\"\n"
                        "f.yaml:4: keys[0].models: \"v\" stands for models that this key may not use, so it opens "
                        "nothing; add \"m\"\n");
    config_free(c);
    strbuf_clear(&out);
    c = parse(NODE "keys: [{id: k, tenant: t, sha256: " HASH_A "}]\nbudgets:\n"
                   "- {name: a, period: day, hard: 1, match: [tenant=t, env=prod, team=x]}\n"
                   "- {name: b, period: day, hard: 1, match: [tem=x, 'users=*', tier=gold]}\n"
                   "- {name: c, period: day, hard: 2, soft: 1, soft_actions: [prefer_local]}\n"
                   "- {name: d, period: week, hard: 2, soft: 1, soft_actions: [prefer_local, notify]}\n");
    CHECK_INT(config_warnings(c, &out), 4);
    CHECK_STR(out.data,
              "f.yaml:5: budgets[0].match: \"tenant\" is a label of x-spillway-tags; did you mean organisation?\n"
              "f.yaml:6: budgets[1].match: \"tem\" is a label of x-spillway-tags; did you mean team?\n"
              "f.yaml:6: budgets[1].match: \"users\" is a label of x-spillway-tags; did you mean user?\n"
              "f.yaml:8: budgets[3]: notify tells nobody without budget_webhook.url\n");
    config_free(c);
    strbuf_fini(&out);
}

#define RECORD(model, at)                                                                                              \
    "{\"spillway_calibration\":1,\"measured_at\":\"" at "\",\"model\":\"" model "\","                                  \
    "\"curve\":{\"base_us\":900,\"prefill_us_per_tok\":4,\"decode_us_base\":50,\"decode_us_per_seq\":6}}"

static struct config *with_record(const char *folder, const char *record, const char *key)
{
    char path[96], text[400];
    snprintf(path, sizeof path, "%s/calibration/a.json", folder);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(record, f) >= 0 && fclose(f) == 0);
    snprintf(text, sizeof text, "auth: off\nstate_dir: %s\nnodes:\n- {name: a, url: 'http://h', models: [m]%s}\n",
             folder, key);
    return parse(text);
}

static void test_calibration(void)
{
    char folder[] = "/tmp/config-XXXXXX", path[96];
    struct strbuf out;
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/calibration", folder);
    CHECK(mkdir(path, 0700) == 0);
    strbuf_init(&out, 1 << 16);

    struct config *c = with_record(folder, RECORD("m", "2999-01-01T00:00:00Z"), "");
    CHECK(c && c->nodes[0].calibrated && c->nodes[0].calibrated->curve.base_us == 900);
    CHECK_INT(config_warnings(c, &out), 0);
    config_free(c);
    c = with_record(folder, RECORD("m", "2020-01-01T00:00:00Z"), "");
    CHECK(c && c->nodes[0].calibrated);
    CHECK_INT(config_warnings(c, &out), 1);
    CHECK(out.data &&
          strstr(out.data, "f.yaml:4: nodes[0].calibration: measured 2020-01-01T00:00:00Z, more than 30 days"));
    config_free(c);
    strbuf_clear(&out);
    c = with_record(folder, RECORD("other", "2999-01-01T00:00:00Z"), "");
    CHECK(c && !c->nodes[0].calibrated);
    CHECK_INT(config_warnings(c, &out), 1);
    CHECK(out.data && strstr(out.data, "is of model \"other\", which this node does not serve"));
    config_free(c);
    strbuf_clear(&out);
    c = with_record(folder, "{}", "");
    CHECK(c && !c->nodes[0].calibrated);
    CHECK_INT(config_warnings(c, &out), 1);
    CHECK(out.data && strstr(out.data, "a.json: \"spillway_calibration\": 1 is missing"));
    config_free(c);
    /* One that is asked for by name must be there, and be one. */
    CHECK(with_record(folder, "{}", ", calibration: /nowhere.json") == NULL);
    CHECK(strstr(problems.data, "f.yaml:4: nodes[0].calibration: /nowhere.json: No such file") != NULL);
    snprintf(path, sizeof path, ", calibration: %s/calibration/a.json", folder);
    CHECK(with_record(folder, "{}", path) == NULL);
    c = with_record(folder, RECORD("m", "2999-01-01T00:00:00Z"), path);
    CHECK(c && c->nodes[0].calibrated);
    config_free(c);
    snprintf(path, sizeof path, "%s/calibration/a.json", folder);
    unlink(path);
    c = with_record(folder, "", ""); /* an empty file */
    CHECK(c && !c->nodes[0].calibrated && c->nodes[0].calibration_why);
    config_free(c);
    unlink(path);
    snprintf(path, sizeof path, "%s/calibration", folder);
    CHECK(rmdir(path) == 0 && rmdir(folder) == 0);
    strbuf_fini(&out);
}

static void test_dump(void)
{
    struct config *c =
        parse("queue: {interactive: {wait: 90s}}\n" NODE "keys: [{id: k, tenant: t, sha256: " HASH_A "}]\n");
    struct strbuf json;
    char *text = NULL;
    size_t n = 0;
    cJSON *root = NULL;
    struct error e;

    FILE *out = open_memstream(&text, &n);
    config_dump(c, out);
    fclose(out);
    CHECK(strstr(text, "queue.interactive.wait: 90s  # line 1\n") != NULL);
    CHECK(strstr(text, "routing.retries: 2  # default\n") != NULL);
    CHECK(strstr(text, "    sha256: ***  # line 4\n") != NULL);
    CHECK(strstr(text, HASH_A) == NULL);
    free(text);
    strbuf_init(&json, 1 << 20);
    CHECK(config_dump_json(c, &json) == RC_OK);
    CHECK(strstr(json.data, HASH_A) == NULL);
    CHECK(json_parse(json.data, json.len, JSON_DEPTH_MAX, &root, &e) == RC_OK);
    cJSON *queue = cJSON_GetObjectItem(root, "queue.interactive.wait");
    CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItem(queue, "value")), "90s");
    CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItem(queue, "source")), "line 1");
    cJSON_Delete(root);
    strbuf_fini(&json);
    config_free(c);
}

/* Relative paths start at the folder of the file, wherever the program was started. */
static void test_relative_paths(void)
{
    char dir[] = "/tmp/spw-config-XXXXXX", path[64];
    struct config *c = NULL;

    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/s.yaml", dir);
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    fputs(OFF NODE "state_dir: data\nledger: {path: /abs/l.db}\n", f);
    fclose(f);
    strbuf_clear(&problems);
    CHECK(config_load(&c, path, &problems) == RC_OK);
    if (c) {
        char expected[128];
        snprintf(expected, sizeof expected, "%s/data/admin.sock", dir);
        CHECK_STR(c->admin_socket, expected);
        CHECK_STR(c->ledger_path, "/abs/l.db");
    }
    config_free(c);
    CHECK(config_load(&c, "/no/such.yaml", &problems) != RC_OK);
    unlink(path);
    rmdir(dir);
}

/* --- documents agree with the schema ------------------------------------------------------------------------ */

/* Tests run anywhere: the tree is where this source is. */
static char *read_from_root(const char *name)
{
    char path[256];
    struct strbuf b;
    struct error e;

    int here = (int)(strlen(__FILE__) - strlen("tests/unit/test_config.c"));
    snprintf(path, sizeof path, "%.*s%s", here, __FILE__, name);
    if (file_read(&b, path, 1 << 20, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        strbuf_fini(&b);
        return spw_strdup("");
    }
    return strbuf_take(&b);
}

/* '#' and a word without a blank between: a setting that is off. */
static char *with_all_on(const char *text)
{
    char *out = spw_strdup(text), *to = out;

    for (const char *p = text; *p; p++) {
        const char *line = p;
        while (line > text && line[-1] == ' ')
            line--;
        bool first = line == text || line[-1] == '\n';
        if (*p == '#' && first && p[1] != ' ' && p[1] != '\n')
            continue;
        *to++ = *p;
    }
    *to = '\0';
    return out;
}

/* What stands under the dotted key, or NULL. */
static const struct yaml_node *find_key(const struct yaml_node *map, const char *key)
{
    char word[64];
    size_t n = strcspn(key, ".");

    snprintf(word, sizeof word, "%.*s", (int)n, key);
    const struct yaml_node *v = yaml_get(map, word);
    return v && key[n] ? find_key(v, key + n + 1) : v;
}

static void test_example_is_complete(void)
{
    char *text = read_from_root("spillway.example.yaml"), *all = with_all_on(text);
    struct config *c = NULL;
    struct yaml_doc *doc = NULL;
    struct error e;

    strbuf_clear(&problems);
    CHECK(config_parse(&c, text, strlen(text), "spillway.example.yaml", &problems) == RC_OK);
    CHECK_STR(problems.data ? problems.data : "", "");
    config_free(c);
    e.message[0] = '\0';
    CHECK(yaml_parse(&doc, all, strlen(all), "example", &e) == RC_OK);
    CHECK_STR(e.message, "");
    for (int k = 0; doc && k < CONFIG_N_TABLES; k++) {
        const struct settings *t = config_tables[k];
        const struct yaml_node *list = t->name ? find_key(yaml_root(doc), t->name) : NULL;
        for (int i = 0; i < t->n_rows; i++) {
            bool found = !t->name && find_key(yaml_root(doc), t->rows[i].key);
            for (int j = 0; list && j < list->n_items; j++)
                found = found || find_key(list->items[j], t->rows[i].key);
            if (!found)
                fprintf(stderr, "spillway.example.yaml lacks %s %s\n", t->name ? t->name : "", t->rows[i].key);
            CHECK(found);
        }
    }
    /* Nothing in it that the schema does not know, also in what is off. */
    strbuf_clear(&problems);
    CHECK(config_parse(&c, all, strlen(all), "example", &problems) != RC_OK);
    CHECK(strstr(problems.data ? problems.data : "", "unknown") == NULL);
    if (doc)
        yaml_doc_free(doc);
    free(text);
    free(all);
}

static void test_reference_page(void)
{
    char *kept = read_from_root("docs/CONFIG.md"), *made = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&made, &n);

    config_print_markdown(out);
    fclose(out);
    if (strcmp(kept, made) != 0)
        fprintf(stderr, "docs/CONFIG.md is stale: build/spillway help config --markdown > docs/CONFIG.md\n");
    CHECK(strcmp(kept, made) == 0);
    free(kept);
    free(made);
}

int main(void)
{
    strbuf_init(&problems, 1 << 20);
    TEST(test_defaults);
    TEST(test_values);
    TEST(test_unknown_keys);
    TEST(test_wrong_types);
    TEST(test_addresses);
    TEST(test_node_mistakes);
    TEST(test_energy);
    TEST(test_reports);
    TEST(test_key_mistakes);
    TEST(test_who);
    TEST(test_who_mistakes);
    TEST(test_models);
    TEST(test_model_mistakes);
    TEST(test_cache_and_tracing);
    TEST(test_all_at_once_in_order);
    TEST(test_not_yaml);
    TEST(test_many_problems);
    TEST(test_warnings);
    TEST(test_calibration);
    TEST(test_dump);
    TEST(test_relative_paths);
    TEST(test_example_is_complete);
    TEST(test_reference_page);
    strbuf_fini(&problems);
    return TEST_RESULT();
}
