/* The cost report as a page and as a mail, of a made-up company: everything of data is escaped, nothing is asked of
 * elsewhere, charts have names and roles, text can be read in both themes (WCAG 2.2, AA), empty reports say so.
 * `--write DIR` writes the page and the mails there, to be looked at (integration/test_report_pictures.py).
 * links: spw_sched_report spw_base m */
#include "report_example.h"

#include <ctype.h>

#include "base/sha256.h"
#include "base/text.h"
#include "scheduler/report/html.h"
#include "scheduler/report/svg.h"
#include "test.h"

typedef enum rc write_fn(const struct report *r, FILE *out, struct error *e);

static char *written(write_fn *write, const struct report *r)
{
    char *text = NULL;
    size_t n = 0;
    struct error e;
    FILE *out = open_memstream(&text, &n);

    CHECK(out && write(r, out, &e) == RC_OK);
    fclose(out);
    return text;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

/* ---- colours ---------------------------------------------------------------------------------------------------------- */

static bool variable(const char *css, const char *name, double rgb[3])
{
    char key[32];
    unsigned v[3];

    snprintf(key, sizeof(key), "--%s:#", name);
    const char *at = strstr(css, key);
    if (!at)
        return false;
    at += strlen(key);
    size_t n = strspn(at, "0123456789abcdef");
    for (int i = 0; i < 3; i++) {
        char digits[3] = {at[n == 3 ? i : 2 * i], at[n == 3 ? i : 2 * i + 1], 0};
        v[i] = (unsigned)strtoul(digits, NULL, 16);
        rgb[i] = v[i] / 255.0;
    }
    return n == 3 || n == 6;
}

/* WCAG 2.2: relative luminance, contrast ratio. */
static double luminance(const double rgb[3])
{
    static const double weight[] = {0.2126, 0.7152, 0.0722};
    double sum = 0;
    for (int i = 0; i < 3; i++)
        sum += weight[i] * (rgb[i] <= 0.04045 ? rgb[i] / 12.92 : pow((rgb[i] + 0.055) / 1.055, 2.4));
    return sum;
}

static double contrast(const char *css, const char *a, const char *b)
{
    double x[3], y[3];
    if (!variable(css, a, x) || !variable(css, b, y))
        return 0;
    const double p = luminance(x), q = luminance(y);
    return (fmax(p, q) + 0.05) / (fmin(p, q) + 0.05);
}

static void contrasts(void)
{
    static const char *const texts[] = {"fg", "soft", "good", "bad", "wait"}, *const grounds[] = {"bg", "card",
                                                                                                  "track"};
    static const char *const marks[] = {"c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"};
    const char *themes[] = {chart_css_text, strstr(chart_css_text, "prefers-color-scheme:dark")};

    CHECK(themes[1] != NULL);
    for (int t = 0; t < 2 && themes[1]; t++)
        for (int g = 0; g < 3; g++) {
            for (int i = 0; i < 5; i++)
                if (contrast(themes[t], texts[i], grounds[g]) < 4.5) {
                    fprintf(stderr, "theme %d: %s on %s: %.2f\n", t, texts[i], grounds[g],
                            contrast(themes[t], texts[i], grounds[g]));
                    CHECK(false);
                }
            for (int i = 0; i < 8 && g != 2; i++)
                if (contrast(themes[t], marks[i], grounds[g]) < 3) {
                    fprintf(stderr, "theme %d: %s on %s: %.2f\n", t, marks[i], grounds[g],
                            contrast(themes[t], marks[i], grounds[g]));
                    CHECK(false);
                }
        }
}

/* ---- the page ------------------------------------------------------------------------------------------------------------- */

/* The value of an attribute at `at`, with or without quotes. */
static void value(const char *at, char *out, size_t size)
{
    const char quote = *at == '"' ? *at++ : 0;
    const size_t n = quote ? strcspn(at, "\"") : strcspn(at, " >");
    snprintf(out, size, "%.*s", (int)n, at);
}

static void check_names(const char *page)
{
    static const char *const refs[] = {" aria-labelledby=", " aria-describedby=", " href=\"#"};
    for (int k = 0; k < 3; k++)
        for (const char *p = page; (p = strstr(p, refs[k]));) {
            char id[64], find[80];
            p += strlen(refs[k]);
            snprintf(id, sizeof(id), "%.*s", (int)strcspn(p, "\" >"), p);
            snprintf(find, sizeof(find), " id=%s>", id);
            const int plain = count(page, find);
            snprintf(find, sizeof(find), " id=%s ", id);
            if (plain + count(page, find) != 1) {
                fprintf(stderr, "%s%s is there %d times\n", refs[k], id, plain);
                CHECK(false);
            }
        }
    for (const char *p = page; (p = strstr(p, "<svg class=")); p++) { /* but for those inside others */
        char class[32];
        value(p + strlen("<svg class="), class, sizeof(class));
        const char *end = strchr(p, '>');
        if (strcmp(class, "square") != 0) {
            CHECK(strstr(p, " role=img") < end && strncmp(end + 1, "<title", 6) == 0);
        }
    }
    CHECK_INT(count(page, "<section id="), count(page, "<h2 id="));
    CHECK_INT(count(page, "<table>"), count(page, "<caption>"));
    CHECK_INT(count(page, "<h1>"), 1);
    CHECK(strstr(page, "<html lang=en>") && strstr(page, "<main>") && strstr(page, "<nav aria-label="));
}

static void check_contained(const char *page)
{
    static const char *const never[] = {"<script", "http:",   "https:", "href=\"/", "url(",        "@import",
                                        " src=",   " style=", "<link",  "<img",     "javascript:", " onload",
                                        "nan%",    "nan ",    "(null)", "-inf",     "inf%"};
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
        if (strstr(page, never[i])) {
            fprintf(stderr, "the page has \"%.60s\"\n", strstr(page, never[i]));
            CHECK(false);
        }
    const char *style = strstr(page, "<style>"), *end = strstr(page, "</style>");
    CHECK(style && end && count(page, "<style>") == 1);
    uint8_t hash[SHA256_BYTES];
    sha256(style + 7, (size_t)(end - style - 7), hash);
    char *text = text_base64(hash, sizeof(hash));
    const char *policy = strstr(page, "'sha256-");
    CHECK(policy && strncmp(policy + 8, text, strlen(text)) == 0);
    free(text);
}

/* Elements that have an end are ended as often as they are begun. */
static void check_balanced(const char *page)
{
    static const char *const of[] = {"svg", "table", "section", "div", "dl",    "ul",  "p",
                                     "h2",  "h3",    "text",    "g",   "title", "bdi", "strong"};
    for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
        char open[16], open2[16], close[16];
        snprintf(open, sizeof(open), "<%s>", of[i]);
        snprintf(open2, sizeof(open2), "<%s ", of[i]);
        snprintf(close, sizeof(close), "</%s>", of[i]);
        if (count(page, open) + count(page, open2) != count(page, close)) {
            fprintf(stderr, "%s: %d and %d\n", of[i], count(page, open) + count(page, open2), count(page, close));
            CHECK(false);
        }
    }
}

static void check_page(const char *page)
{
    check_names(page);
    check_contained(page);
    check_balanced(page);
}

static void whole_page(void)
{
    static const char *const parts[] = {"November 2026",
                                        "Forecast for the month",
                                        "likely between",
                                        "What changed, and why",
                                        "even pace",
                                        "Per million tokens",
                                        "<th scope=row>Together</th><td class=wide></td>",
                                        "p99",
                                        "All by paid APIs",
                                        "Pre-emptions survived",
                                        "Unusual hours",
                                        "team <bdi>research",
                                        "newest head",
                                        "4182733 records",
                                        "Example &amp; Sons",
                                        "(no team)"};
    struct example *x = example_new();
    char *page = written(report_write_html, &x->r);

    check_page(page);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (!strstr(page, parts[i])) {
            fprintf(stderr, "the page lacks \"%s\"\n", parts[i]);
            CHECK(false);
        }
    CHECK(strlen(page) < 400000);
    free(page);
    free(x);
}

static void nothing_there(void)
{
    struct report r = {.period = {.name = "2026-11-28"}, .hours = {.open = 3, .wrong = 1, .first_problem = "a <b> c"}};
    for (int k = 0; k < REPORT_SAVINGS; k++)
        r.savings[k].assumption = "";
    char *page = written(report_write_html, &r);

    check_page(page);
    CHECK(strstr(page, "No request was answered") && strstr(page, "No budget is set") && strstr(page, "a &lt;b&gt; c"));
    CHECK(strstr(page, "nothing to compare with") && strstr(page, "No machine"));
    CHECK(strstr(page, "The month is over"));
    free(page);
    page = written(report_write_mail_text, &r);
    CHECK(strstr(page, "No request was answered"));
    free(page);
}

static void hostile_names(void)
{
    static const char bad[] = "<script>alert(1)</script>\"' onload=x & \xff\xe2\x80\xae\x01 http://evil";
    struct example *x = example_new();
    x->teams[0].name = x->models[0].name = x->pools[0].name = x->budgets[0].name = x->units[0].model = bad;
    x->providers[0].name = x->r.site = x->r.zone_name = x->corrections[0].reason = bad;
    x->prices[0].subject = x->r.savings[0].assumption = bad;
    write_fn *const all[] = {report_write_html, report_write_mail_html, report_write_mail_text};

    for (int i = 0; i < 3; i++) {
        char *page = written(all[i], &x->r);
        CHECK(!strchr(page, 0x01) && !strstr(page, "\xe2\x80\xae") && !strchr(page, (char)0xff));
        if (i < 2)
            CHECK(!strstr(page, "<script") && !strstr(page, "\"' onload") && strstr(page, "&lt;script&gt;"));
        if (i == 0)
            check_balanced(page);
        free(page);
    }
    free(x);
}

static void a_team(void)
{
    struct example *x = example_new();
    x->r.team = "search";
    char *page = written(report_write_html, &x->r);
    check_page(page);
    CHECK(!strstr(page, "id=fleet") && !strstr(page, "By team") && strstr(page, "team <bdi>search</bdi>"));
    free(page);
    free(x);
}

static void mails(void)
{
    struct example *x = example_new();
    char *html = written(report_write_mail_html, &x->r), *text = written(report_write_mail_text, &x->r);

    CHECK(!strstr(html, "<svg") && !strstr(html, "<style") && !strstr(html, "<script") && !strstr(html, "http"));
    CHECK(strstr(html, "Month end, lowest") && strstr(text, "Month end, lowest") && strstr(text, "By team"));
    CHECK_INT(count(html, "<table"), count(html, "</table>"));
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
        int columns = 0;
        for (size_t i = 0; i < strcspn(line, "\n"); i++)
            columns += (line[i] & 0xc0) != 0x80;
        CHECK(columns <= 72);
    }
    free(html);
    free(text);
    free(x);
}

/* ---- charts ------------------------------------------------------------------------------------------------------------------ */

static void ticks(void)
{
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        const double reach = pow(10, 24 * random_unit(&seed) - 9), low = i % 3 ? 0 : -reach * random_unit(&seed),
                     high = reach * random_unit(&seed);
        const int most = 3 + i % 5;
        const struct svg_ticks t = svg_ticks(low, high, most);
        const double last = t.first + t.step * (t.n - 1), slack = t.step * 1e-6;
        CHECK(t.n >= 2 && t.n <= most && t.step > 0);
        CHECK(t.first <= low + slack && last >= high - slack && t.first <= slack && last >= -slack);
        const double zero = t.first / t.step;
        CHECK(fabs(zero - round(zero)) < 1e-6);
    }
    CHECK_INT(svg_ticks(0, 0, 5).n, 2);
    CHECK_INT(svg_ticks(NAN, INFINITY, 5).n, 2);
}

static void figures(void)
{
    char s[32];
    CHECK_STR(svg_dollars(0, 0, s, sizeof(s)), "$0");
    CHECK_STR(svg_dollars(1234, 0, s, sizeof(s)), "$1.23k");
    CHECK_STR(svg_dollars(0.05, 0, s, sizeof(s)), "$0.0500");
    CHECK_STR(svg_dollars(2500, 500, s, sizeof(s)), "$2.5k");
    CHECK_STR(svg_dollars(-40, 20, s, sizeof(s)), "\u2212$40");
    CHECK_STR(svg_number(999.99, 0, s, sizeof(s)), "1.00k");
    CHECK_STR(svg_number(3400000, 0, s, sizeof(s)), "3.40M");
    CHECK_STR(svg_percent(0.25, 0.25, s, sizeof(s)), "25%");
}

static int write_all(const char *dir)
{
    static const struct {
        const char *name;
        write_fn *write;
    } files[] = {{"report.html", report_write_html},
                 {"mail.html", report_write_mail_html},
                 {"mail.txt", report_write_mail_text}};
    struct example *x = example_new();
    int failed = 0;

    for (int i = 0; i < 3; i++) {
        char *path = spw_asprintf("%s/%s", dir, files[i].name);
        struct error e;
        FILE *out = fopen(path, "w");
        failed |= !out || files[i].write(&x->r, out, &e) != RC_OK || fclose(out) != 0;
        free(path);
    }
    free(x);
    return failed;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_all(argv[2]);
    TEST(contrasts);
    TEST(whole_page);
    TEST(nothing_there);
    TEST(hostile_names);
    TEST(a_team);
    TEST(mails);
    TEST(ticks);
    TEST(figures);
    return TEST_RESULT();
}
