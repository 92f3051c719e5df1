#include "scheduler/report/markup.h"

#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(struct markup *m, const char *bytes, size_t n)
{
    if (m->rc == RC_OK)
        m->rc = strbuf_append(m->out, bytes, n);
}

void markup_put(struct markup *m, const char *format, ...)
{
    char text[512], *longer = text;
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n >= (int)sizeof(text)) {
        longer = spw_malloc((size_t)n + 1);
        vsnprintf(longer, (size_t)n + 1, format, again);
    }
    va_end(again);
    if (n > 0)
        add(m, longer, (size_t)n);
    if (longer != text)
        free(longer);
}

/* Bytes of the character at s, 0 where it is no UTF-8 (RFC 3629); *code is which one. */
static int character(const unsigned char *s, uint32_t *code)
{
    const int n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

    *code = n > 1 ? s[0] & (0xffu >> (n + 1)) : s[0];
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) /* the NUL at the end, too */
            return 0;
        *code = *code << 6 | (s[i] & 0x3f);
    }
    return n && *code >= least[n] && *code <= 0x10ffff && (*code < 0xd800 || *code > 0xdfff) ? n : 0;
}

static bool is_unseen(uint32_t c)
{
    return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) || c == 0xfeff || (c & 0xfffe) == 0xfffe;
}

static const char unknown[] = "\xef\xbf\xbd";

void markup_text(struct markup *m, const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; s && *s;) {
        uint32_t code;
        const int n = character(s, &code);
        const char *as = n == 0 || is_unseen(code) ? unknown
                         : code == '<'             ? "&lt;"
                         : code == '>'             ? "&gt;"
                         : code == '&'             ? "&amp;"
                         : code == '"'             ? "&quot;"
                         : code == '\''            ? "&#39;"
                                                   : NULL;
        if (as)
            add(m, as, strlen(as));
        else
            add(m, (const char *)s, (size_t)n);
        s += n ? n : 1;
    }
}

/* At most so many characters; returns how many. */
static int plain(struct markup *m, const char *text, int most)
{
    int count = 0;

    for (const unsigned char *s = (const unsigned char *)text; s && *s && count < most; count++) {
        uint32_t code;
        const int n = character(s, &code);
        if (n == 0 || (is_unseen(code) && code != '\r'))
            add(m, unknown, sizeof(unknown) - 1);
        else if (code == '\n' || code == '\t' || code == '\r')
            add(m, " ", 1);
        else
            add(m, (const char *)s, (size_t)n);
        s += n ? n : 1;
    }
    return count;
}

void markup_line(struct markup *m, const char *text)
{
    plain(m, text, INT_MAX);
}

void markup_plain(struct markup *m, const char *text, int columns)
{
    const int width = columns < 0 ? -columns : columns;
    int used = 0;

    for (const char *s = text; *s; s++) /* characters begin with a byte that does not go on */
        used += ((unsigned char)*s & 0xc0) != 0x80;
    if (columns < 0 && used < width)
        markup_put(m, "%*s", width - used, "");
    used = plain(m, text, width);
    if (columns > 0 && used < width)
        markup_put(m, "%*s", width - used, "");
}

void markup_name(struct markup *m, const char *name)
{
    markup_put(m, "<bdi>");
    markup_text(m, name);
    markup_put(m, "</bdi>");
}

int markup_id(struct markup *m)
{
    return ++m->ids;
}

/* ---- what pages are made of -------------------------------------------------------------------------------------- */

void markup_section(struct markup *m, const char *id, const char *title, const char *about)
{
    markup_put(m, "<section id=%s aria-labelledby=h-%s>\n<h2 id=h-%s>%s</h2>\n", id, id, id, title);
    if (about)
        markup_put(m, "<p class=about>%s</p>\n", about);
}

void markup_section_end(struct markup *m)
{
    markup_put(m, "</section>\n");
}

void markup_empty(struct markup *m, const char *text)
{
    markup_put(m, "<p class=empty>%s</p>\n", text);
}

void markup_table(struct markup *m, const char *caption, const char *columns)
{
    markup_put(m, "<div class=scroll tabindex=0 role=region aria-label=\"%s\"><table><caption>%s</caption><thead><tr>",
               caption, caption);
    while (*columns) {
        const int n = (int)strcspn(columns, "|");
        const bool wide = *columns == '~', text = columns[wide] == '<';
        markup_put(m, "<th scope=col%s%s%s>%.*s</th>", wide || text ? " class=\"" : "", text ? "text" : "",
                   wide   ? (text ? " wide\"" : "wide\"")
                   : text ? "\""
                          : "",
                   n - wide - text, columns + wide + text);
        columns += n + (columns[n] == '|');
    }
    markup_put(m, "</tr></thead><tbody>\n");
}

void markup_table_end(struct markup *m)
{
    markup_put(m, "</tbody></table></div>\n");
}

void markup_total(struct markup *m)
{
    markup_put(m, "</tbody><tfoot><tr><th scope=row>Together</th>");
}

void markup_total_end(struct markup *m)
{
    markup_put(m, "</tr></tfoot></table></div>\n");
}

void markup_rest(struct markup *m, int shown, int n)
{
    if (n > shown)
        markup_put(m, "<p class=soft><small>The first %d of %d.</small></p>\n", shown, n);
}

void markup_row(struct markup *m, const char *name)
{
    markup_put(m, "<tr><th scope=row>");
    markup_name(m, name);
    markup_put(m, "</th>");
}
