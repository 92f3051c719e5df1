/* The schema: settings of the file itself. The order of rows is the order of the documents. */
#include "scheduler/config/schema_table.h"

#include "scheduler/config/schema_check.h"

static const char *const certs_words[] = {"off", "optional", "required", NULL}; /* enum tls_client_certs */
static const char *const auth_words[] = {"keys", "off", NULL};
static const char *const objective_words[] = {"cost", "latency", "energy", "balanced", NULL}; /* enum route_objective */
static const char *const share_words[] = {"tenant", "all", NULL};
static const char *const explain_words[] = {"off", "admin", "all", NULL};
static const char *const cache_words[] = {"off", "lru", "redis", NULL};
static const char *const store_words[] = {"memory", "redis", NULL};
static const char *const failure_words[] = {"refuse", "continue", NULL};    /* enum audit_on_failure */
static const char *const journal_words[] = {"off", "auto", "always", NULL}; /* enum ledger_journal */
static const char *const spool_words[] = {"refuse", "spool", NULL};
static const char *const starttls_words[] = {"required", "optional", NULL}; /* enum config_starttls */
static const char *const focus_words[] = {"1.4", "1.2", NULL};              /* enum report_focus */
static const char *const loss_words[] = {"fail_closed", "fail_open", NULL};
static const char *const tracing_words[] = {"ratio", "parent", NULL};
static const char *const auto_words[] = {"auto", NULL};
static const char *const zero_words[] = {"spill", "hold", NULL}; /* enum config_from_zero */
static const char *const level_words[] = {"debug", "info", "warn", "error", NULL};

#define MAIN(field)         .offset = offsetof(struct config, field)
#define QUEUE(class, field) MAIN(queue[WAITING_##class].field)

#define REDIS_CA "For an address behind rediss://: authorities (PEM) that are believed instead of the system's."
#define REDIS_CERT                                                                                                     \
    "For an address behind rediss://: certificate (PEM) to show; tls-auth-clients yes, Redis' default, wants one."

static const struct setting main_rows[] = {
    {"listen", SETTING_TEXT, MAIN(listen), .def = "127.0.0.1:8080", .check = check_address,
     .help = "Where applications connect: HOST:PORT, [IPV6]:PORT or unix:PATH. Port 0 takes any free one."},
    {"workers", SETTING_INT, MAIN(workers), .lo = 1, .hi = 64, .unit = "event loops", .choices = auto_words,
     .def = "auto",
     .help = "Threads that serve requests, each with its own listening socket and its own connections to the nodes; "
             "`auto`: one less than the cores that this process may use, at least 1."},
    {"tls.cert", SETTING_PATH, SETTING_RELOAD, MAIN(tls_cert), .def_text = "plain HTTP",
     .help = "Certificate chain (PEM) for `listen`; with tls.key, turns TLS on."},
    {"tls.key", SETTING_PATH, SETTING_RELOAD, MAIN(tls_key), .def_text = "plain HTTP",
     .help = "Private key (PEM) of tls.cert."},
    {"tls.client_certs", SETTING_CHOICE, SETTING_RELOAD, MAIN(tls_client_certs), .choices = certs_words, .def = "off",
     .help = "Certificates of applications: `required`: who shows none that tls.client_ca has signed is not let in, "
             "whatever key he has. `optional`: one that is shown must be good. A certificate does not replace a key."},
    {"tls.client_ca", SETTING_PATH, SETTING_RELOAD, MAIN(tls_client_ca), .def_text = "none",
     .help = "Authorities (PEM) for the certificates of applications."},
    {"tls.client_crl", SETTING_PATH, SETTING_RELOAD, MAIN(tls_client_crl), .def_text = "none is withdrawn",
     .help =
         "Lists (CRL, PEM) of certificates that their authorities have withdrawn: who shows one of them is not let in. "
         "One of every authority in a client's chain must be there, and none may have run out. Read again within a "
         "minute when the file is replaced."},
    {"admin.socket", SETTING_PATH, MAIN(admin_socket), .def_text = "STATE_DIR/admin.sock",
     .help = "Unix socket (mode 0660) of the admin API and /metrics; the command line connects to it."},
    {"admin.listen", SETTING_TEXT, MAIN(admin_listen), .check = check_address, .def_text = "off",
     .help = "Serves the admin API and /metrics to keys of scope admin on HOST:PORT as well; "
             "beyond loopback only with TLS."},
    {"admin.tls_cert", SETTING_PATH, SETTING_RELOAD, MAIN(admin_tls_cert), .def_text = "plain HTTP",
     .help = "Certificate chain (PEM) for admin.listen."},
    {"admin.tls_key", SETTING_PATH, SETTING_RELOAD, MAIN(admin_tls_key), .def_text = "plain HTTP",
     .help = "Private key (PEM) of admin.tls_cert."},
    {"admin.tls_client_certs", SETTING_CHOICE, SETTING_RELOAD, MAIN(admin_tls_client_certs), .choices = certs_words,
     .def = "off", .help = "The same as tls.client_certs for admin.listen."},
    {"admin.tls_client_ca", SETTING_PATH, SETTING_RELOAD, MAIN(admin_tls_client_ca), .def_text = "none",
     .help = "Authorities (PEM) for the certificates of operators."},
    {"admin.tls_client_crl", SETTING_PATH, SETTING_RELOAD, MAIN(admin_tls_client_crl), .def_text = "none is withdrawn",
     .help = "The same as tls.client_crl for admin.listen."},
    {"ui.mode", SETTING_EITHER, SETTING_RELOAD, MAIN(ui.off), .choices = config_on_words, .def = "on",
     .help =
         "The dashboard, pages under /ui on admin.listen for people with a key of scope admin. `ui: off` is short for "
         "no such pages."},
    {"ui.idle", SETTING_DURATION, SETTING_RELOAD, MAIN(ui.idle_ms), .lo = 60000, .hi = INT64_C(86400000), .def = "30m",
     .help = "Who has asked for no page for so long is signed out."},
    {"ui.session", SETTING_DURATION, SETTING_RELOAD, MAIN(ui.session_ms), .lo = 300000, .hi = INT64_C(604800000),
     .def = "12h", .help = "After so long everybody has to sign in again."},
    {"state_dir", SETTING_PATH, MAIN(state_dir), .def = "state",
     .help = "Folder for ledger and sockets; made (mode 0750) when it is missing."},
    {"budget_slice", SETTING_INT, SETTING_RELOAD, MAIN(budget_slice), .lo = 1, .hi = 1000000, .unit = "tokens",
     .def = "256",
     .help = "Output tokens that a running answer has reserved in its budgets ahead of what it has said."},
    {"budget_wait_ms", SETTING_INT, SETTING_RELOAD, MAIN(budget_wait_ms), .lo = 0, .hi = 60000, .unit = "ms",
     .def = "200",
     .help = "A request that would fit if others gave back what they have reserved waits so long for them; then it is "
             "refused."},
    {"budget_store.kind", SETTING_CHOICE, MAIN(budget_store.kind), .choices = store_words, .def = "memory",
     .help = "Where budgets are counted: `memory`, by this scheduler alone and kept in its ledger; `redis`, by all "
             "schedulers that name the same Redis here, together."},
    {"budget_store.address", SETTING_TEXT, MAIN(budget_store.address), .check = check_redis, .def = "127.0.0.1:6379",
     .help = "kind redis: HOST:PORT, rediss://HOST:PORT (TLS) or unix:PATH. It must have appendonly yes, appendfsync "
             "always and maxmemory-policy noeviction."},
    {"budget_store.tls.ca", SETTING_PATH, MAIN(budget_store.tls_ca), .def_text = "the system's", .help = REDIS_CA},
    {"budget_store.tls.cert", SETTING_PATH, MAIN(budget_store.tls_cert), .def_text = "none", .help = REDIS_CERT},
    {"budget_store.tls.key", SETTING_PATH, MAIN(budget_store.tls_key), .def_text = "none",
     .help = "Private key (PEM) of budget_store.tls.cert."},
    {"budget_store.db", SETTING_INT, MAIN(budget_store.db), .lo = 0, .hi = 65535, .unit = "database", .def = "0",
     .help = "kind redis: number of the database."},
    {"budget_store.username", SETTING_TEXT, MAIN(budget_store.username), .def_text = "none",
     .help = "kind redis: the user of its access lists."},
    {"budget_store.password_file", SETTING_PATH, MAIN(budget_store.password_file), .def_text = "none",
     .help = "kind redis: file whose first line is the password."},
    {"budget_store.timeout", SETTING_DURATION, MAIN(budget_store.timeout_ms), .lo = 10, .hi = 60000, .def = "500ms",
     .help = "kind redis: a request waits so long for its budgets; then on_loss holds."},
    {"budget_store.dead_after", SETTING_DURATION, MAIN(budget_store.dead_ms), .lo = 500, .hi = 3600000, .def = "10s",
     .help =
         "kind redis: a scheduler that is not heard of for so long is dead: what its requests had been granted counts "
         "as spent."},
    {"budget_store.on_loss", SETTING_CHOICE, MAIN(budget_store.on_loss), .choices = loss_words, .def = "fail_closed",
     .help = "kind redis: while it is lost, requests under a budget are refused (`fail_closed`), or go on out of an "
             "allowance that each budget has reserved for this scheduler beforehand (`fail_open`)."},
    {"budget_store.allowance_usd", SETTING_TEXT, MAIN(budget_store.allowance), .def = "1",
     .help =
         "on_loss fail_open: dollars per budget that is in use; reserved, and so not to be spent by other schedulers."},
    {"budget_store.ledgers", SETTING_INT, MAIN(budget_store.ledgers), .lo = 1, .hi = 1000, .unit = "schedulers",
     .def = "1",
     .help =
         "kind redis: how many schedulers share it. A Redis that is new, or has lost its data, grants nothing until "
         "that many have told it what their ledgers know."},
    {"budget_webhook.url", SETTING_TEXT, SETTING_RELOAD, MAIN(budget_webhook), .check = check_webhook,
     .def_text = "nobody is told",
     .help = "Gets a POST with JSON when a budget reaches a limit whose actions say notify."},
    {"budget_webhook.token_file", SETTING_PATH, SETTING_RELOAD, MAIN(budget_webhook_token_file), .def_text = "none",
     .help = "File with the bearer token to show there."},
    {"budget_webhook.ca", SETTING_PATH, SETTING_RELOAD, MAIN(budget_webhook_ca), .def_text = "the system's",
     .help = "Certificates (PEM) to trust there."},
    {"reports.at", SETTING_TEXT, SETTING_RELOAD, MAIN(reports.at), .def_text = "never",
     .help =
         "When the reports of the day and month before are made each night, as in \"06:00\"; nights that were missed "
         "are made up at the start (docs/REPORTS.md, Every night)."},
    {"reports.time_zone", SETTING_TEXT, SETTING_RELOAD, MAIN(reports.time_zone), .def_text = "energy.time_zone",
     .help = "Whose clock that is, and whose days and months are reported."},
    {"reports.folder", SETTING_PATH, MAIN(reports.folder), .def_text = "STATE_DIR/reports",
     .help = "Where they are put; made (mode 0750) when it is missing."},
    {"reports.periods", SETTING_WORDS, SETTING_RELOAD, MAIN(reports.periods),
     .count_offset = offsetof(struct config, reports.n_periods), .def_text = "day, month",
     .help = "day: yesterday; month: on the first, the month before."},
    {"reports.formats", SETTING_WORDS, SETTING_RELOAD, MAIN(reports.formats),
     .count_offset = offsetof(struct config, reports.n_formats), .def_text = "html, csv",
     .help = "What files are made and attached: html, csv, json, md."},
    {"reports.focus", SETTING_CHOICE, SETTING_RELOAD, MAIN(reports.focus), .choices = focus_words, .def = "1.4",
     .help = "Version of FinOps FOCUS that the CSV follows."},
    {"reports.keep_days", SETTING_INT, SETTING_RELOAD, MAIN(reports.keep_days), .lo = 0, .hi = 36500, .unit = "days",
     .def = "800",
     .help = "Reports that were made longer ago are deleted, with what is known of their delivery; 0: none is."},
    {"reports.retry", SETTING_DURATION, SETTING_RELOAD, MAIN(reports.retry_ms), .lo = 1000, .hi = INT64_C(2592000000),
     .def = "72h", .help = "What cannot be delivered for so long is given up, which is alerted."},
    {"reports.mail.server", SETTING_TEXT, SETTING_RELOAD, MAIN(reports.mail.server), .check = check_mail_server,
     .def_text = "no mail", .help = "smtp://HOST:587 (see starttls) or smtps://HOST:465."},
    {"reports.mail.starttls", SETTING_CHOICE, SETTING_RELOAD, MAIN(reports.mail.starttls), .choices = starttls_words,
     .def = "required",
     .help =
         "smtp://: `required`, nothing is sent unless the server turns to TLS; `optional`, TLS where it is offered."},
    {"reports.mail.ca", SETTING_PATH, SETTING_RELOAD, MAIN(reports.mail.ca), .def_text = "the system's",
     .help = "Certificates (PEM) to trust there."},
    {"reports.mail.user", SETTING_TEXT, SETTING_RELOAD, MAIN(reports.mail.user), .def_text = "none",
     .help = "Whom we log in as."},
    {"reports.mail.password_file", SETTING_PATH, SETTING_RELOAD, MAIN(reports.mail.password_file), .def_text = "none",
     .help = "File of that user's password."},
    {"reports.mail.from", SETTING_TEXT, SETTING_RELOAD, MAIN(reports.mail.from), .def_text = "none",
     .help = "The sender's address, as in spillway@example.com."},
    {"reports.mail.to", SETTING_WORDS, SETTING_RELOAD, MAIN(reports.mail.to),
     .count_offset = offsetof(struct config, reports.mail.n_to), .def_text = "nobody",
     .help = "Who gets the report of everything."},
    {"reports.mail.max_attached", SETTING_SIZE, SETTING_RELOAD, MAIN(reports.mail.bytes_max), .lo = 0,
     .hi = INT64_C(1) << 28, .def = "15MiB",
     .help = "Files that would make more than this are not attached; the mail says where they lie."},
    {"reports.webhook.url", SETTING_TEXT, SETTING_RELOAD, MAIN(reports.webhook.url), .check = check_webhook,
     .def_text = "none", .help = "Gets a POST with JSON for each report of everything."},
    {"reports.webhook.secret_file", SETTING_PATH, SETTING_RELOAD, MAIN(reports.webhook.secret_file), .def_text = "none",
     .help =
         "File of a secret: the header x-spillway-signature is `sha256=` and the HMAC-SHA-256 of the body under it."},
    {"reports.webhook.ca", SETTING_PATH, SETTING_RELOAD, MAIN(reports.webhook.ca), .def_text = "the system's",
     .help = "Certificates (PEM) to trust there."},
    {"ledger.mode", SETTING_EITHER, MAIN(ledger_off), .choices = config_on_words, .def = "on",
     .help =
         "`off`: nobody writes down who asked what of which node for how much, and answers do not wait for a disk: a "
         "pure proxy. `ledger: off` is short for it."},
    {"ledger.path", SETTING_PATH, MAIN(ledger_path), .def_text = "STATE_DIR/ledger.db",
     .help = "The ledger's SQLite file."},
    {"ledger.queue_max", SETTING_INT, MAIN(ledger_queue_max), .lo = 64, .hi = 1000000, .unit = "rows", .def = "65536",
     .help = "Rows that may wait for the disk; beyond it new work is refused."},
    {"ledger.journal", SETTING_CHOICE, MAIN(ledger_journal), .choices = journal_words, .def = "auto",
     .help =
         "A file beside the ledger's (`LEDGER.ahead`, 16 MiB) that rows go into first and are made durable in, to be "
         "folded into the ledger many at a time, within moments: `auto`, while more than 2000 of them come in a "
         "second, or another process has the ledger locked; `always`, each of them, which is for tests; `off`, none."},
    {"ledger.on_failure", SETTING_CHOICE, MAIN(ledger_on_failure), .choices = spool_words, .def = "refuse",
     .help = "When rows cannot be written (disk full or broken): `refuse`, answers wait and new requests are refused "
             "until they "
             "can; `spool`, rows go into `ledger.spool.path` up to `ledger.spool.max`, and from there into the ledger "
             "when it can be "
             "written again. Nothing is lost either way."},
    {"ledger.spool.path", SETTING_PATH, MAIN(ledger_spool), .def_text = "STATE_DIR/ledger.spool",
     .help = "The spool's file; best on another disk than the ledger's."},
    {"ledger.spool.max", SETTING_SIZE, MAIN(ledger_spool_bytes), .lo = 65536, .hi = INT64_C(1) << 40, .def = "256MiB",
     .help = "What may wait there, at about 1 KiB for a request; beyond it new work is refused."},
    {"ledger.keep_months", SETTING_INT, MAIN(ledger_keep_months), .lo = 0, .hi = 1200, .unit = "months", .def = "0",
     .help = "Full months whose rows stay in the ledger's file; older ones are moved to files of their own beside it "
             "(ledger-archive/2026-08.db), which verification and export read as well. 0: all stay."},
    {"audit.mode", SETTING_EITHER, MAIN(audit.off), .choices = config_on_words, .def = "on",
     .help =
         "`off`: no chain of signed records is kept of requests, admin actions, refused logins and changes of the "
         "configuration (docs/AUDIT.md). `audit: off` is short for it. Where the ledger is off there is none either."},
    {"audit.dir", SETTING_PATH, MAIN(audit.dir), .def_text = "STATE_DIR/audit",
     .help = "Folder of the chain's segments, one per day; made (mode 0750) when it is missing."},
    {"audit.key", SETTING_PATH, MAIN(audit.key), .def_text = "key.pem in audit.dir",
     .help = "The signing key (Ed25519, PEM, mode 0600), made at the first start. Back it up: without it the chain "
             "cannot go on."},
    {"audit.queue_max", SETTING_INT, MAIN(audit.queue_max), .lo = 64, .hi = 1000000, .unit = "records", .def = "65536",
     .help = "Records that may wait for the disk; beyond it `audit.on_failure` applies."},
    {"audit.on_failure", SETTING_CHOICE, MAIN(audit.on_failure), .choices = failure_words, .def = "refuse",
     .help = "When records cannot be written: `refuse`, answers wait and new requests are refused until they can; "
             "`continue`, work goes on, and how many records were lost is said in log, metrics and chain."},
    {"audit.refused_logins", SETTING_INT, MAIN(audit.refused_logins), .lo = 1, .hi = 10000, .unit = "per second",
     .def = "20",
     .help = "Refused logins that get a record of their own; beyond it they are counted, and the count recorded."},
    {"audit.heads.file", SETTING_PATH, MAIN(audit.heads), .def_text = "none",
     .help = "File, best on another machine or on storage that cannot be rewritten, that signed heads are appended to: "
             "what is cut off the chain's end is found by them alone."},
    {"audit.heads.every", SETTING_DURATION, MAIN(audit.heads_every_ms), .lo = 1000, .hi = INT64_C(86400000),
     .def = "1m",
     .help = "How often a head is exported, to file and webhook, where there is a new one; and one at the end."},
    {"audit.heads.webhook", SETTING_TEXT, MAIN(audit.webhook), .check = check_webhook, .def_text = "none",
     .help = "Gets a POST with each exported head, as JSON."},
    {"audit.heads.token_file", SETTING_PATH, MAIN(audit.webhook_token_file), .def_text = "none",
     .help = "File with the bearer token to show there."},
    {"audit.heads.ca", SETTING_PATH, MAIN(audit.webhook_ca), .def_text = "the system's",
     .help = "Certificates (PEM) to trust there."},
    {"metrics.mode", SETTING_EITHER, MAIN(metrics_off), .choices = config_on_words, .def = "on",
     .help = "`off`: nothing is measured for /metrics, which is not there then. `metrics: off` is short for it."},
    {"auth.mode", SETTING_EITHER, SETTING_RELOAD, MAIN(auth_off), .choices = auth_words, .def = "keys",
     .help =
         "`keys`: requests need a key (of `keys` below, or made by `spillway keys create`) or a token of one of the "
         "issuers. `off`: everybody who reaches `listen` is served. `auth: off` is short for it."},
    {"auth.local_only_tenants", SETTING_WORDS, SETTING_RELOAD, MAIN(local_only_tenants),
     .count_offset = offsetof(struct config, n_local_only_tenants), .def_text = "none",
     .help =
         "Tenants whose requests never leave the premises, whatever their keys say. A single request is bound by the "
         "header `x-spillway-local-only: true`."},
    {"limits.body", SETTING_SIZE, MAIN(body_bytes_max), .lo = 1024, .hi = INT64_C(1) << 30, .def = "32MiB",
     .help = "Largest request body; a larger one is answered with 413."},
    {"limits.connections", SETTING_INT, MAIN(connections_max), .lo = 1, .hi = 1000000, .unit = "connections",
     .def = "20000",
     .help =
         "Open connections from applications; one more is answered with 503. Twice as many files and sockets may be "
         "open, where the hard limit of the process allows it; else it warns at the start."},
    {"limits.connections_per_client", SETTING_INT, SETTING_RELOAD, MAIN(connections_per_client), .lo = 0, .hi = 1000000,
     .unit = "connections", .def = "0",
     .help =
         "Open connections from one IPv4 address or IPv6 /64 network; one more is answered with 429. Behind a proxy "
         "all come from its address. 0: no such bound."},
    {"limits.slow_head", SETTING_DURATION, MAIN(head_ms), .lo = 100, .hi = 600000, .def = "15s",
     .help = "A request's head (and the TLS handshake) must be there so long after its first byte; else 408."},
    {"limits.slow_body", SETTING_DURATION, MAIN(body_ms), .lo = 100, .hi = 3600000, .def = "2m",
     .help = "The same for its body; else 408."},
    {"limits.slow_reader", SETTING_DURATION, MAIN(reader_ms), .lo = 100, .hi = 3600000, .def = "1m",
     .help = "A client that takes no byte of its answer for so long is cut off."},
    {"limits.keep_alive", SETTING_DURATION, MAIN(client_idle_ms), .lo = 100, .hi = 86400000, .def = "75s",
     .help = "A connection without a request is closed after so long."},
    {"limits.held", SETTING_SIZE, MAIN(held_bytes_max), .lo = 1048576, .hi = INT64_C(1) << 40, .def = "1GiB",
     .help =
         "Bytes of requests, and of large answers that their clients have yet to read, held in memory at once, over "
         "all connections; beyond it requests are answered with 503."},
    {"limits.key", SETTING_TEXT, SETTING_RELOAD, MAIN(class_key), .check = check_name, .def_text = "no limit",
     .help = "Class of limits for each key, and each user of an issuer, that has no rate_class itself."},
    {"limits.team", SETTING_TEXT, SETTING_RELOAD, MAIN(class_team), .check = check_name, .def_text = "no limit",
     .help = "Class of limits for each team, all its keys together; what a tenant has outside of teams counts as one."},
    {"limits.model", SETTING_TEXT, SETTING_RELOAD, MAIN(class_model), .check = check_name, .def_text = "no limit",
     .help = "Class of limits for what each tenant asks of each model."},
    {"health.interval", SETTING_DURATION, SETTING_RELOAD, MAIN(health_interval_ms), .lo = 50, .hi = 600000, .def = "2s",
     .help = "Time between two health checks of a node."},
    {"health.timeout", SETTING_DURATION, SETTING_RELOAD, MAIN(health_timeout_ms), .lo = 50, .hi = 60000, .def = "1s",
     .help = "A health check without an answer after this long has failed."},
    {"queue.interactive.wait", SETTING_DURATION, SETTING_RELOAD, QUEUE(INTERACTIVE, wait_ms), .lo = 0, .hi = 3600000,
     .def = "10s", .help = "Longest wait of an interactive request for a free slot; 0 refuses at once."},
    {"queue.interactive.max", SETTING_INT, SETTING_RELOAD, QUEUE(INTERACTIVE, max), .lo = 0, .hi = 100000,
     .unit = "requests", .def = "1024",
     .help = "Interactive requests that may wait for each model; one more is answered with 429."},
    {"queue.interactive.bytes", SETTING_SIZE, SETTING_RELOAD, QUEUE(INTERACTIVE, bytes), .lo = 0,
     .hi = INT64_C(1) << 40, .def = "256MiB", .help = "Bytes of their bodies, likewise."},
    {"queue.batch.wait", SETTING_DURATION, SETTING_RELOAD, QUEUE(BATCH, wait_ms), .lo = 0, .hi = 86400000, .def = "10m",
     .help = "Longest wait of a batch request (`service_tier: flex`, or a deadline far away)."},
    {"queue.batch.max", SETTING_INT, SETTING_RELOAD, QUEUE(BATCH, max), .lo = 0, .hi = 100000, .unit = "requests",
     .def = "1024", .help = "Batch requests that may wait for each model."},
    {"queue.batch.bytes", SETTING_SIZE, SETTING_RELOAD, QUEUE(BATCH, bytes), .lo = 0, .hi = INT64_C(1) << 40,
     .def = "256MiB", .help = "Bytes of their bodies, likewise."},
    {"queue.batch_after", SETTING_DURATION, SETTING_RELOAD, MAIN(batch_after_ms), .lo = 0, .hi = 86400000, .def = "5m",
     .help = "A request without a service_tier is batch when its x-spillway-deadline is at least so far away."},
    {"queue.keep_alive", SETTING_DURATION, SETTING_RELOAD, MAIN(keep_alive_ms), .lo = 0, .hi = 600000, .def = "15s",
     .help = "A stream that waits gets its head and a comment after so long, and again; later failures are then error "
             "events. 0: never."},
    {"prefix_share", SETTING_EITHER, SETTING_RELOAD, MAIN(prefix_share_all), .choices = share_words, .def = "tenant",
     .help = "Who shares what engines keep of prompts they have seen: `tenant`: nobody with another tenant. `all`: "
             "everybody; then answers' times can tell one tenant what another has asked."},
    {"routing.objective", SETTING_CHOICE, SETTING_RELOAD, MAIN(aim.objective), .choices = objective_words,
     .def = "cost",
     .help =
         "Of the nodes that meet the SLO with the asked probability: `cost`: the cheapest; `latency`: the quickest to "
         "the last token; `energy`: the fewest joules; `balanced`: a third each."},
    {"routing.slo_ttft", SETTING_DURATION, SETTING_RELOAD, MAIN(aim.ttft_ms), .lo = 0, .hi = 3600000, .def = "0s",
     .help = "SLO of interactive requests: the first token within this time; 0s: no bound."},
    {"routing.slo_ttft_per_1k", SETTING_DURATION, SETTING_RELOAD, MAIN(aim.ttft_per_1k_ms), .lo = 0, .hi = 3600000,
     .def = "0s", .help = "...and so much more per 1,000 prompt tokens above routing.slo_free_tokens."},
    {"routing.slo_free_tokens", SETTING_INT, SETTING_RELOAD, MAIN(aim.free_tokens), .lo = 0, .hi = 10000000,
     .unit = "tokens", .def = "0", .help = "Prompt tokens that routing.slo_ttft alone allows for."},
    {"routing.slo_tpot", SETTING_DURATION, SETTING_RELOAD, MAIN(aim.tpot_ms), .lo = 0, .hi = 3600000, .def = "0s",
     .help =
         "SLO of interactive requests: each further token within this time, in the mean of an answer; 0s: no bound."},
    {"routing.slo_probability", SETTING_RATIO, SETTING_RELOAD, MAIN(aim.probability_ppm), .def = "0.99",
     .help = "Share of the requests that are to meet it."},
    {"routing.retries", SETTING_INT, SETTING_RELOAD, MAIN(retries), .lo = 0, .hi = 16, .unit = "nodes", .def = "2",
     .help = "Other nodes tried for a request that fails before its first byte."},
    {"routing.first_byte", SETTING_DURATION, SETTING_RELOAD, MAIN(first_byte_ms), .lo = 100, .hi = 3600000, .def = "2m",
     .help = "Longest wait for the first byte of a node's answer; then another node is tried."},
    {"routing.idle", SETTING_DURATION, SETTING_RELOAD, MAIN(idle_ms), .lo = 100, .hi = 3600000, .def = "1m",
     .help = "Longest silence of a node in the middle of an answer; then the answer is cut off."},
    {"routing.token", SETTING_DURATION, SETTING_RELOAD, MAIN(token_ms), .lo = 100, .hi = 3600000, .def = "20s",
     .help = "Longest wait for the next token of an answer that can continue on another node; then it does."},
    {"routing.prefix_affinity", SETTING_BOOL, SETTING_RELOAD, MAIN(prefix_affinity), .def = "true",
     .help =
         "Among equally cheap nodes a prompt goes to one that was sent its beginning before and is not much busier."},
    {"routing.prefix_memory", SETTING_SIZE, MAIN(prefix_memory), .lo = 64 << 10, .hi = INT64_C(64) << 30,
     .def = "64MiB", .help = "What remembering such beginnings may take, at most; 64 MiB are 1.8 GiB of prompts."},
    {"routing.retry_percent", SETTING_INT, SETTING_RELOAD, MAIN(retry_percent), .lo = 0, .hi = 100, .unit = "percent",
     .def = "20", .help = "Retries may be this share of the requests of the last ten seconds..."},
    {"routing.retry_floor", SETTING_INT, SETTING_RELOAD, MAIN(retry_per_s), .lo = 0, .hi = 10000,
     .unit = "retries per second", .def = "10",
     .help = "...and this many more; beyond both a failed request is not tried again. Going on with an answer that has "
             "begun is no retry."},
    {"routing.explain_keep", SETTING_INT, MAIN(explain_keep), .lo = 0, .hi = 100000, .unit = "decisions", .def = "1000",
     .help =
         "The newest decisions that are kept for `spillway explain` and x-spillway-explain, 2 KiB of memory each; 0: "
         "none."},
    {"routing.explain_header", SETTING_CHOICE, SETTING_RELOAD, MAIN(explain_header), .choices = explain_words,
     .def = "admin",
     .help =
         "Whose requests may ask with `x-spillway-explain: 1` why they went where they did; the answer names nodes, "
         "their load and prices. `admin`: those of keys that have the scope admin beside inference; `all`; `off`."},
    {"routing.record", SETTING_PATH, MAIN(record), .def_text = "nothing is recorded",
     .help = "File to which all that routing is told and decides is written, for `spillway replay`: request ids, token "
             "counts, nodes and prices, nothing of any prompt. One that is there is gone on with."},
    {"routing.record_max_bytes", SETTING_SIZE, MAIN(record_bytes_max), .lo = 64 << 10, .hi = INT64_C(1) << 40,
     .def = "256MiB",
     .help =
         "Then the recording ends, and a new file and a restart begin another; a decision between three nodes takes "
         "about 2 KiB."},
    {"breaker.failures", SETTING_INT, SETTING_RELOAD, MAIN(breaker_failures), .lo = 0, .hi = 1000, .unit = "failures",
     .def = "5", .help = "A node that fails so often in a row is left alone for a while; 0: never for that."},
    {"breaker.percent", SETTING_INT, SETTING_RELOAD, MAIN(breaker_percent), .lo = 0, .hi = 100, .unit = "percent",
     .def = "50", .help = "The same for this share of failures in breaker.window; 0: never for that."},
    {"breaker.volume", SETTING_INT, SETTING_RELOAD, MAIN(breaker_volume), .lo = 1, .hi = 100000, .unit = "requests",
     .def = "20", .help = "breaker.percent holds from so many requests in the window on."},
    {"breaker.window", SETTING_DURATION, SETTING_RELOAD, MAIN(breaker_window_ms), .lo = 1000, .hi = 600000,
     .def = "10s", .help = "What breaker.percent looks at."},
    {"breaker.open", SETTING_DURATION, SETTING_RELOAD, MAIN(breaker_open_ms), .lo = 10, .hi = 3600000, .def = "1s",
     .help = "How long the node is left alone; then one request tries it. Doubled each time that fails."},
    {"breaker.open_max", SETTING_DURATION, SETTING_RELOAD, MAIN(breaker_open_max_ms), .lo = 10, .hi = 3600000,
     .def = "30s", .help = "At most so long."},
    {"breaker.slow", SETTING_DURATION, SETTING_RELOAD, MAIN(breaker_slow_ms), .lo = 0, .hi = 3600000, .def = "0",
     .help = "A first token later than this counts as a failure; 0: none is too late (but routing.first_byte)."},
    {"breaker.cool_down", SETTING_DURATION, SETTING_RELOAD, MAIN(cool_down_ms), .lo = 0, .hi = 3600000, .def = "1s",
     .help = "A node that answers 429 is left alone for so long if it does not say for how long (Retry-After)."},
    {"breaker.cool_down_max", SETTING_DURATION, SETTING_RELOAD, MAIN(cool_down_max_ms), .lo = 0, .hi = 86400000,
     .def = "5m", .help = "At most so long, whatever it says."},
    {"drain", SETTING_DURATION, SETTING_RELOAD, MAIN(drain_ms), .lo = 0, .hi = 3600000, .def = "30s",
     .help = "After SIGTERM running answers get this long to end."},
    {"idempotency.keep", SETTING_DURATION, MAIN(idempotency.keep_ms), .lo = 0, .hi = 86400000, .def = "10m",
     .help = "A request with the same Idempotency-Key, tenant and body as one that was answered so short ago gets that "
             "answer again, free of charge; 0: such keys mean nothing."},
    {"idempotency.keys", SETTING_INT, MAIN(idempotency.keys_max), .lo = 1, .hi = 10000000, .unit = "keys",
     .def = "100000", .help = "More are not remembered; those answered longest ago are forgotten first."},
    {"idempotency.max_bytes", SETTING_SIZE, MAIN(idempotency.bytes_max), .lo = 65536, .hi = INT64_C(1) << 40,
     .def = "64MiB",
     .help = "Answers that are kept for it. Those kept longest make room; whoever asks for one again has it computed "
             "again, free of charge."},
    {"cache.mode", SETTING_CHOICE, MAIN(cache.mode), .choices = cache_words, .def = "lru",
     .help = "Where finished answers are kept, to answer the same request of the same tenant again: `lru`, in the "
             "scheduler's own memory; `redis`, in the one of cache.redis; `off`."},
    {"cache.ttl", SETTING_DURATION, MAIN(cache.ttl_ms), .lo = 1000, .hi = INT64_C(2592000000), .def = "1h",
     .help = "Answers older than this are forgotten."},
    {"cache.max_bytes", SETTING_SIZE, MAIN(cache.bytes_max), .lo = 65536, .hi = INT64_C(1) << 40, .def = "64MiB",
     .help = "mode lru: all that is kept; what was used longest ago goes first."},
    {"cache.max_entry", SETTING_SIZE, MAIN(cache.entry_bytes_max), .lo = 1024, .hi = INT64_C(32) << 20, .def = "1MiB",
     .help = "A larger answer is not kept."},
    {"cache.collapse", SETTING_DURATION, SETTING_RELOAD, MAIN(cache.collapse_ms), .lo = 0, .hi = 3600000, .def = "30s",
     .help =
         "Longest wait of a request for the answer to an identical one that is being computed; then it goes its own "
         "way. 0: each is computed by itself."},
    {"cache.redis.address", SETTING_TEXT, MAIN(cache.redis_address), .check = check_redis, .def = "127.0.0.1:6379",
     .help = "mode redis: HOST:PORT, rediss://HOST:PORT (TLS) or unix:PATH."},
    {"cache.redis.tls.ca", SETTING_PATH, MAIN(cache.redis_tls_ca), .def_text = "the system's", .help = REDIS_CA},
    {"cache.redis.tls.cert", SETTING_PATH, MAIN(cache.redis_tls_cert), .def_text = "none", .help = REDIS_CERT},
    {"cache.redis.tls.key", SETTING_PATH, MAIN(cache.redis_tls_key), .def_text = "none",
     .help = "Private key (PEM) of cache.redis.tls.cert."},
    {"cache.redis.db", SETTING_INT, MAIN(cache.redis_db), .lo = 0, .hi = 65535, .unit = "database", .def = "0",
     .help = "mode redis: number of the database."},
    {"cache.redis.username", SETTING_TEXT, MAIN(cache.redis_username), .def_text = "none",
     .help = "mode redis: the user of its access lists."},
    {"cache.redis.password_file", SETTING_PATH, MAIN(cache.redis_password_file), .def_text = "none",
     .help = "mode redis: file whose first line is the password."},
    {"cache.redis.timeout", SETTING_DURATION, MAIN(cache.redis_timeout_ms), .lo = 1, .hi = 10000, .def = "50ms",
     .help = "mode redis: a lookup without an answer after this long is a miss; several in a row, and it is left alone "
             "for a while."},
    {"cache.redis.local", SETTING_BOOL, MAIN(cache.redis_local), .def_text = "true on loopback, else false",
     .help = "mode redis: it stands on the premises. If not, requests marked local_only never touch it."},
    {"tracing.endpoint", SETTING_TEXT, MAIN(tracing.endpoint), .check = check_collector, .def_text = "off",
     .help =
         "OpenTelemetry collector that takes spans by OTLP/HTTP, as in http://127.0.0.1:4318; /v1/traces is added."},
    {"tracing.sample", SETTING_RATIO, MAIN(tracing.sample_ppm), .def = "0.01",
     .help = "Share of requests that are recorded."},
    {"tracing.mode", SETTING_CHOICE, MAIN(tracing.mode), .choices = tracing_words, .def = "parent",
     .help = "`parent`: a request whose traceparent says so is recorded, too, and one whose traceparent denies it is "
             "not. `ratio`: tracing.sample alone decides."},
    {"tracing.headers_file", SETTING_PATH, MAIN(tracing.headers_file), .def_text = "none",
     .help = "File of lines `Name: value` that are sent with every batch of spans (a token, as a rule)."},
    {"tracing.ca_file", SETTING_PATH, MAIN(tracing.ca_file), .def_text = "the system's",
     .help = "Certificates (PEM) to trust when the collector's address is https."},
    {"tracing.service_name", SETTING_TEXT, MAIN(tracing.service_name), .def = "spillway",
     .help = "service.name of the spans."},
    {"tracing.environment", SETTING_TEXT, MAIN(tracing.environment), .def_text = "none",
     .help = "deployment.environment.name of the spans."},
    {"tracing.queue_max", SETTING_INT, MAIN(tracing.queue_max), .lo = 64, .hi = 1000000, .unit = "spans", .def = "2048",
     .help = "Spans that may wait for the collector, per event loop; more are dropped and counted."},
    {"energy.price", SETTING_TEXT, SETTING_RELOAD, MAIN(energy.price), .def_text = "none",
     .help =
         "Dollars per kWh of the site's electricity, as in 0.12, where `energy.hours` says nothing else. Without it "
         "energy costs nothing."},
    {"energy.hours", SETTING_WORDS, SETTING_RELOAD, MAIN(energy.hours),
     .count_offset = offsetof(struct config, energy.n_hours), .def_text = "none",
     .help =
         "Prices by time, each with days, hours, months or some of them, then dollars per kWh: \"mon-fri 07:00-20:00 "
         "0.25\". The first that fits holds."},
    {"energy.time_zone", SETTING_TEXT, SETTING_RELOAD, MAIN(energy.time_zone), .def = "UTC",
     .help = "Of `energy.hours`, as in Europe/Berlin."},
    {"power.cap_watts", SETTING_INT, SETTING_RELOAD, MAIN(power.cap_watts), .lo = 0, .hi = 1000000000, .unit = "watts",
     .def = "0", .help = "Most that the site may draw at any instant, waking nodes included; 0: no limit."},
    {"power.base_watts", SETTING_INT, SETTING_RELOAD, MAIN(power.base_watts), .lo = 0, .hi = 1000000000,
     .unit = "watts", .def = "0", .help = "What the site draws beside its nodes, counted against `power.cap_watts`."},
    {"power.keep_warm", SETTING_INT, SETTING_RELOAD, MAIN(power.keep_warm), .lo = 0, .hi = 1000, .unit = "nodes",
     .def = "1", .help = "So many nodes of each model stay awake, whatever the forecast says."},
    {"power.move", SETTING_DURATION, SETTING_RELOAD, MAIN(power.move_ms), .lo = 0, .hi = 3600000, .def = "30s",
     .help = "How long answers may still run on a node that is not needed, so that they are waited for; when more is "
             "likely they "
             "go on elsewhere, the same bit for bit, where there is room for all of them. 0s: they are waited for."},
    {"power.mode", SETTING_EITHER, SETTING_RELOAD, MAIN(power.off), .choices = config_on_words, .def = "on",
     .help =
         "`on`: engines of ours whose power.sleep_wake is given are put to sleep when they are not needed, and woken "
         "before they are. `off`: only an operator does."},
    {"join.listen", SETTING_TEXT, MAIN(join.listen), .check = check_address, .def_text = "off",
     .help = "HOST:PORT on which engines join with a token of `spillway nodes token`, then send heartbeats; TLS by the "
             "scheduler's own authority, made in state_dir/join at first use."},
    {"join.url", SETTING_TEXT, MAIN(join.url), .check = check_https, .def_text = "https://, this host's name, the port",
     .help = "Where engines reach join.listen, as in https://scheduler.example:8443; what launched machines are told."},
    {"join.beat", SETTING_DURATION, SETTING_RELOAD, MAIN(join.beat_ms), .lo = 50, .hi = 60000, .def = "2s",
     .help = "How often an engine that joined says how it is."},
    {"join.silent_after", SETTING_DURATION, SETTING_RELOAD, MAIN(join.silent_ms), .lo = 100, .hi = 3600000,
     .def = "10s", .help = "Without a word for so long a node gets nothing new."},
    {"join.lost_after", SETTING_DURATION, SETTING_RELOAD, MAIN(join.lost_ms), .lo = 100, .hi = 86400000, .def = "30s",
     .help = "Without a word for so long what runs on the node is moved to others."},
    {"join.cert_life", SETTING_DURATION, SETTING_RELOAD, MAIN(join.cert_ms), .lo = 1000, .hi = INT64_C(31536000000),
     .def = "24h",
     .help = "Of the certificates that nodes get; they renew them after two thirds. One that has run out needs a new "
             "token."},
    {"join.token_life", SETTING_DURATION, SETTING_RELOAD, MAIN(join.token_ms), .lo = 1000, .hi = 2592000000,
     .def = "1h", .help = "Of a token that was not used."},
    {"capacity.interval", SETTING_DURATION, SETTING_RELOAD, MAIN(capacity.interval_ms), .lo = 100, .hi = 600000,
     .def = "5s", .help = "How often capacity is planned; it is at once when somebody waits or a node is lost."},
    {"capacity.max_nodes", SETTING_INT, SETTING_RELOAD, MAIN(capacity.max_nodes), .lo = 0, .hi = CONFIG_NODES_MAX,
     .unit = "nodes", .def = "8", .help = "Nodes of pools that may be there at once, those that come or go included."},
    {"capacity.max_hour", SETTING_TEXT, SETTING_RELOAD, MAIN(capacity.max_hour_text), .def = "10",
     .help = "Dollars per hour that all of them may cost together; `unlimited` for no limit."},
    {"capacity.launches_per_min", SETTING_INT, SETTING_RELOAD, MAIN(capacity.launches_per_min), .lo = 1, .hi = 1000,
     .unit = "launches", .def = "10", .help = "In any 60 seconds."},
    {"capacity.drain", SETTING_DURATION, SETTING_RELOAD, MAIN(capacity.drain_ms), .lo = 0, .hi = 86400000, .def = "10m",
     .help =
         "A node of a pool that is not needed any more may finish what it has for so long; then it is ended, and its "
         "answers go on elsewhere."},
    {"capacity.down_after", SETTING_DURATION, SETTING_RELOAD, MAIN(capacity.down_after_ms), .lo = 0, .hi = 86400000,
     .def = "5m", .help = "Capacity is given up when less has been needed for so long."},
    {"capacity.return_after", SETTING_DURATION, SETTING_RELOAD, MAIN(capacity.return_after_ms), .lo = 0, .hi = 86400000,
     .def = "20s",
     .help = "On-demand nodes are replaced by spot ones when nothing has spoken against those for so long: one is "
             "tried, and "
             "the others follow. It doubles with each that was taken back within 10 minutes."},
    {"capacity.over_provision", SETTING_RATIO, SETTING_RELOAD, MAIN(capacity.over_provision_ppm), .def = "0.1",
     .help = "So much more than what is foreseen: 0.1 is a tenth."},
    {"capacity.survive", SETTING_RATIO, SETTING_RELOAD, MAIN(capacity.survive_ppm), .def = "0",
     .help =
         "Share of the demand that is left when any one zone's nodes of a type are taken back at once; 0: don't care."},
    {"capacity.from_zero", SETTING_CHOICE, SETTING_RELOAD, MAIN(capacity.from_zero), .choices = zero_words,
     .def = "spill",
     .help =
         "A request that no node is awake for: `spill`: goes to an API, where one may take it; else, and with `hold`, "
         "it waits in its room while a node wakes or is launched."},
    {"capacity.api_bridge", SETTING_EITHER, SETTING_RELOAD, MAIN(capacity.api_bridge_off), .choices = config_on_words,
     .def = "on", .help = "`off`: plans do not count on APIs while nodes come up."},
    {"capacity.api_steady", SETTING_EITHER, SETTING_RELOAD, MAIN(capacity.api_steady_off), .choices = config_on_words,
     .def = "on", .help = "`off`: no demand is left to APIs for good, even where a node would cost more."},
    {"capacity.sweep", SETTING_DURATION, SETTING_RELOAD, MAIN(capacity.sweep_ms), .lo = 1000, .hi = 3600000,
     .def = "30s", .help = "How often providers are asked what is really there."},
    {"capacity.stray_grace", SETTING_DURATION, SETTING_RELOAD, MAIN(capacity.stray_grace_ms), .lo = 0, .hi = 86400000,
     .def = "2m", .help = "An instance with our tag that we know nothing of is ended after so long."},
    {"simulate.scenario", SETTING_PATH, SETTING_RELOAD, MAIN(simulate_scenario), .def_text = "none",
     .help = "What `spillway simulate` adds to this configuration: how fast machines are, markets, SLOs "
             "(docs/SIMULATE.md)."},
    {"log.level", SETTING_CHOICE, SETTING_RELOAD, MAIN(log_level), .choices = level_words, .def = "info",
     .help = "Lines below this level are dropped."},
};

SETTING_ROOM(main_rows, config);

const struct settings config_main_table = {SETTING_ROWS(main_rows), .item_size = sizeof(struct config),
                                           .lines_offset = offsetof(struct config, lines)};
