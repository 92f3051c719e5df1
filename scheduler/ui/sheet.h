/* The dashboard's pages, written from facts: pure, no clock, nothing that blocks. */
#ifndef SCHEDULER_UI_SHEET_H
#define SCHEDULER_UI_SHEET_H

#include "scheduler/ui/facts.h"

#define PAGE_BYTES_MAX ((size_t)16 << 20)

/* What has to be asked for beside facts_gather(). */
enum page_needs { PAGE_MONTH = 1, PAGE_BUDGETS = 2, PAGE_FILES = 4, PAGE_ITEM = 8 /* of a name in its address */ };
struct sheet;
struct ui_page {
    const char *path;  /* after /ui: "", "/fleet"; of an item without its name */
    const char *title; /* also in the navigation, unless it is of an item */
    const char *lead;  /* a sentence, HTML */
    unsigned needs;    /* bits of enum page_needs */
    void (*put)(struct sheet *s);
};
extern const struct ui_page ui_pages[];
extern const int ui_n_pages;

struct page_who { /* for whom it is written */
    const char *key_id;
    const char *form; /* what its forms carry (session.h) */
    const char *item; /* PAGE_ITEM: its name; else NULL */
};
/* The page, appended to out. RC_FULL: it is larger than out's bound. */
enum rc sheet_write(struct strbuf *out, const struct ui_page *page, const struct facts *f,
                    const struct page_who *who) SPW_MUST_USE;
/* The form to sign in on. why: what was wrong with the last try; NULL: nothing. */
enum rc sheet_write_login(struct strbuf *out, const char *form, const char *why) SPW_MUST_USE;
/* A page of one sentence for what could not be shown; who NULL: nobody is signed in. */
enum rc sheet_write_problem(struct strbuf *out, const char *title, const char *text,
                            const struct page_who *who) SPW_MUST_USE;
/* The rules of all of them. */
enum rc sheet_write_style(struct strbuf *out) SPW_MUST_USE;
extern const char sheet_icon[]; /* SVG */

#endif
