/* The dashboard's parts: sessions end when they have to and forms belong to one browser alone, no name leads out of the
 * folder of reports, and pages escape what comes from data, name what they show, and hold neither scripts nor styles of
 * their own. `--write DIR` writes the pages of a made-up company there, to be looked at
 * (integration/test_ui_browser.py).
 * links: spw_sched_ui spw_sched_report spw_base m */
#include "test.h"
#include "ui_example.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "scheduler/ui/session.h"
#include "scheduler/ui/sheet.h"

/* ---- sessions ---------------------------------------------------------------------------------------------------------- */

static const struct session_limits limits = {.idle_ms = 60000, .life_ms = 300000};

static void sessions_end(void)
{
    struct clock_manual time = {.mono = {NS_PER_S}};
    const struct clock clock = clock_manual(&time);
    struct sessions *s = sessions_new(&clock);
    char token[SESSION_TEXT_BYTES], other[SESSION_TEXT_BYTES];
    struct session found;

    sessions_open(s, "sk-one", "root", token);
    sessions_open(s, "sk-two", "eve", other);
    CHECK(strcmp(token, other) != 0 && sessions_count(s) == 2);
    CHECK(sessions_find(s, token, &limits, &found));
    CHECK_STR(found.key, "sk-one");
    CHECK_STR(found.key_id, "root");
    sessions_close(s, other);
    CHECK(!sessions_find(s, other, &limits, &found));
    for (int i = 0; i < 5; i++) { /* used all the time, and over all the same at its age */
        clock_advance(&time, 59 * NS_PER_S);
        CHECK(sessions_find(s, token, &limits, &found));
    }
    clock_advance(&time, 5 * NS_PER_S);
    CHECK(!sessions_find(s, token, &limits, &found) && sessions_count(s) == 0);
    sessions_open(s, "sk-one", "root", token);
    clock_advance(&time, 60 * NS_PER_S);
    CHECK(!sessions_find(s, token, &limits, &found)); /* idle */
    sessions_free(s);
}

static void sessions_are_bounded(void)
{
    struct clock_manual time = {.mono = {NS_PER_S}};
    const struct clock clock = clock_manual(&time);
    struct sessions *s = sessions_new(&clock);
    char first[SESSION_TEXT_BYTES], second[SESSION_TEXT_BYTES], token[SESSION_TEXT_BYTES];
    struct session found;

    sessions_open(s, "sk-1", "a", first);
    clock_advance(&time, NS_PER_MS);
    sessions_open(s, "sk-2", "b", second);
    clock_advance(&time, NS_PER_MS);
    CHECK(sessions_find(s, first, &limits, &found)); /* so the second was used least lately */
    for (int i = 0; i < SESSIONS_MAX - 1; i++) {
        clock_advance(&time, NS_PER_MS);
        sessions_open(s, "sk-n", "n", token);
    }
    CHECK_INT(sessions_count(s), SESSIONS_MAX);
    CHECK(sessions_find(s, first, &limits, &found) && sessions_find(s, token, &limits, &found));
    CHECK(!sessions_find(s, second, &limits, &found));
    sessions_free(s);
}

static void forms_are_one_browsers(void)
{
    struct sessions *s = sessions_new(&clock_system), *restarted = sessions_new(&clock_system);
    char a[SESSION_TEXT_BYTES], b[SESSION_TEXT_BYTES], form[SESSION_TEXT_BYTES], again[SESSION_TEXT_BYTES];
    static const char *const odd[] = {"", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                      "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB",
                                      "../../../../../../../../../../../../../../../"};
    struct session found;

    sessions_token(s, a);
    sessions_token(s, b);
    CHECK(sessions_form(s, a, form) && sessions_form(s, a, again) && strcmp(form, again) == 0 && strcmp(form, a) != 0);
    CHECK(sessions_form_is_right(s, a, form));
    CHECK(!sessions_form_is_right(s, b, form) && !sessions_form_is_right(restarted, a, form));
    CHECK(!sessions_form_is_right(s, a, NULL) && !sessions_form_is_right(s, a, "") &&
          !sessions_form_is_right(s, "", form));
    form[4] ^= 1;
    CHECK(!sessions_form_is_right(s, a, form));
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        CHECK(!sessions_form(s, odd[i], form) && !sessions_find(s, odd[i], &limits, &found));
    CHECK(!sessions_find(s, NULL, &limits, &found) && !sessions_find(s, a, &limits, &found));
    sessions_free(s);
    sessions_free(restarted);
}

/* ---- files ------------------------------------------------------------------------------------------------------------- */

static void put(const char *folder, const char *name, const char *text)
{
    char *path = spw_asprintf("%s/%s", folder, name);
    struct error e;
    CHECK(file_replace(path, 0600, text, strlen(text), &e) == RC_OK);
    free(path);
}

static enum rc read_of(const char *folder, const char *name, char *out, size_t size)
{
    struct strbuf b;
    struct error e;
    strbuf_init(&b, FILES_ONE_MAX + 1);
    const enum rc rc = files_read(&b, folder, name, &e);
    snprintf(out, size, "%s", b.data ? b.data : "");
    strbuf_fini(&b);
    return rc;
}

static void no_name_leads_out(void)
{
    char top[] = "/tmp/spillway-ui-XXXXXX", text[64];
    static const char *const wrong[] = {
        "../secret.html", "/etc/passwd", "link.html", "..",        ".",       "",          ".a.html",
        "a.exe",          "sub.html",    "pipe.html", "none.html", "a.html/", "a%2f.html", "a b.html"};
    struct files f;

    CHECK(mkdtemp(top) != NULL);
    char *folder = spw_asprintf("%s/reports", top), *at;
    CHECK(mkdir(folder, 0700) == 0);
    put(top, "secret.html", "secret");
    put(folder, "a.html", "november");
    put(folder, "b.csv", "x,y");
    put(folder, ".a.html", "no");
    put(folder, "a.exe", "no");
    at = spw_asprintf("%s/link.html", folder);
    CHECK(symlink("../secret.html", at) == 0);
    free(at);
    at = spw_asprintf("%s/sub.html", folder);
    CHECK(mkdir(at, 0700) == 0);
    free(at);
    at = spw_asprintf("%s/pipe.html", folder);
    CHECK(mkfifo(at, 0600) == 0);
    free(at);
    CHECK_INT(read_of(folder, "a.html", text, sizeof text), RC_OK);
    CHECK_STR(text, "november");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_INT(read_of(folder, wrong[i], text, sizeof text), RC_NOT_FOUND);
        CHECK_STR(text, "");
    }
    files_list(&f, folder);
    CHECK(f.n == 2 && f.in_all == 2 && !f.why[0] && f.n == 2 && strcmp(f.of[0].name, "b.csv") == 0 &&
          f.of[0].bytes == 3);
    files_free(&f);
    files_list(&f, "/nowhere/at/all");
    CHECK(f.n == 0 && !f.why[0]); /* not made yet */
    files_free(&f);
    files_list(&f, "/etc/passwd");
    CHECK(f.n == 0 && f.why[0]);
    files_free(&f);
    static const char *const made[] = {"reports/a.html",   "reports/b.csv",     "reports/.a.html",
                                       "reports/a.exe",    "reports/link.html", "reports/pipe.html",
                                       "reports/sub.html", "reports",           "secret.html"};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        at = spw_asprintf("%s/%s", top, made[i]);
        CHECK(remove(at) == 0);
        free(at);
    }
    CHECK(rmdir(top) == 0);
    free(folder);
}

/* ---- pages -------------------------------------------------------------------------------------------------------------- */

static const struct page_who root = {"root", "form-of-root", NULL}, asked = {"root", "form-of-root", "req_1"};

static char *page_of(const struct ui_page *p, const struct facts *f)
{
    struct strbuf out;
    strbuf_init(&out, PAGE_BYTES_MAX);
    CHECK(sheet_write(&out, p, f, p->needs & PAGE_ITEM ? &asked : &root) == RC_OK);
    return strbuf_take(&out);
}

static void check_page(const char *page, const char *title)
{
    static const char *const never[] = {
        "<script", " style=", " onload", " onclick", "http:", "https:", "(null)", ">nan", "\"nan", "$nan"};
    char text[100];

    snprintf(text, sizeof text, "<h1>%s</h1>", title);
    CHECK(strstr(page, text) && strstr(page, "<html lang=en>") && strstr(page, "<main id=main"));
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
        if (strstr(page, never[i])) {
            fprintf(stderr, "%s holds %s: %.100s\n", title, never[i], strstr(page, never[i]));
            CHECK(false);
        }
}

static void pages_are_whole(void)
{
    struct ui_example *x = ui_example_new();
    const struct facts nothing = {.now = x->f.now, .version = "0", .why_not = "no node is ready"};

    for (int i = 0; i < ui_n_pages; i++) {
        const char *title = ui_pages[i].title;
        char *page = page_of(&ui_pages[i], &x->f), *empty = page_of(&ui_pages[i], &nothing);
        check_page(page, title);
        check_page(empty, title);
        CHECK(strstr(page, "form-of-root") && strstr(page, "Sign out"));
        free(page);
        free(empty);
    }
    x->books->budgets[3].days_in_all = x->books->budgets[3].n_days = 1; /* a day's: no line to draw */
    char *money = page_of(&ui_pages[2], &x->f);
    CHECK(strstr(money, "Budget team:search, spent by") && !strstr(money, "Budget team:research, spent by"));
    free(money);
    char *page = page_of(&ui_pages[0], &x->f);
    CHECK(strstr(page, "$16.71") && strstr(page, "4 of 8") && strstr(page, "98.3%")); /* an hour, machines, in time */
    CHECK(strstr(page, "no answer to /health within 2 s") && strstr(page, "burns too fast"));
    free(page);
    ui_example_free(x);
}

static void names_are_escaped(void)
{
    static const char evil[] = "<b onclick=x>\"'&\xff";
    struct ui_example *x = ui_example_new();

    x->nodes[0].name = x->nodes[0].reason = x->nodes[0].models = x->nodes[0].pool = evil;
    x->routes[0].model = evil;
    x->budgets[0].name = evil;
    x->f.budgets_why = NULL;
    snprintf(x->decisions[0].names, sizeof x->decisions[0].names, "%s", evil);
    snprintf(x->decisions[0].id, sizeof x->decisions[0].id, "%s", evil);
    x->month.report = NULL;
    snprintf(x->month.why, sizeof x->month.why, "%s", evil);
    x->f.audit.stats.failing = true;
    snprintf(x->f.audit.error, sizeof x->f.audit.error, "%s", evil);
    for (int i = 0; i < ui_n_pages; i++) {
        const struct page_who who = {evil, "f", ui_pages[i].needs & PAGE_ITEM ? evil : NULL};
        struct strbuf out;
        strbuf_init(&out, PAGE_BYTES_MAX);
        CHECK(sheet_write(&out, &ui_pages[i], &x->f, &who) == RC_OK);
        CHECK(!strstr(out.data, "<b onclick") && strstr(out.data, "&lt;b onclick"));
        strbuf_fini(&out);
    }
    x->f.budgets_why = evil;
    char *page = page_of(&ui_pages[0], &x->f);
    CHECK(!strstr(page, "<b onclick"));
    free(page);
    ui_example_free(x);
}

/* While its first hour is not closed, a month has no figures: not nought, and not 100 % less than the one before. */
static void a_month_begins(void)
{
    struct ui_example *x = ui_example_new();
    x->books->r.hours.closed = 0;
    char *page = page_of(&ui_pages[0], &x->f);
    CHECK(strstr(page, "no hour is closed yet") && strstr(page, "There are no figures of the month"));
    CHECK(!strstr(page, "this day of last month"));
    free(page);
    ui_example_free(x);
}

static void a_bound_is_told(void)
{
    struct ui_example *x = ui_example_new();
    struct strbuf out;

    strbuf_init(&out, 1000);
    CHECK_INT(sheet_write(&out, &ui_pages[0], &x->f, &root), RC_FULL);
    strbuf_fini(&out);
    ui_example_free(x);
}

/* ---- to be looked at ---------------------------------------------------------------------------------------------------- */

static int write_all(const char *folder)
{
    struct ui_example *x = ui_example_new();
    struct strbuf out;
    char name[64];

    for (int i = 0; i < ui_n_pages; i++) {
        char *page = page_of(&ui_pages[i], &x->f);
        snprintf(name, sizeof name, "%s.html",
                 ui_pages[i].needs & PAGE_ITEM ? "decision"
                 : ui_pages[i].path[0]         ? ui_pages[i].path + 1
                                               : "overview");
        put(folder, name, page);
        free(page);
    }
    strbuf_init(&out, PAGE_BYTES_MAX);
    CHECK(sheet_write_login(&out, "form", NULL) == RC_OK);
    put(folder, "login.html", out.data);
    strbuf_clear(&out);
    CHECK(sheet_write_login(&out, "form", "the API key is not known here") == RC_OK);
    put(folder, "refused.html", out.data);
    strbuf_clear(&out);
    CHECK(sheet_write_style(&out) == RC_OK);
    put(folder, "style.css", out.data);
    put(folder, "icon.svg", sheet_icon);
    strbuf_fini(&out);
    ui_example_free(x);
    return TEST_RESULT();
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_all(argv[2]);
    TEST(sessions_end);
    TEST(sessions_are_bounded);
    TEST(forms_are_one_browsers);
    TEST(no_name_leads_out);
    TEST(pages_are_whole);
    TEST(names_are_escaped);
    TEST(a_month_begins);
    TEST(a_bound_is_told);
    return TEST_RESULT();
}
