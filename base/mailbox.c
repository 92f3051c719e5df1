#include "base/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"

struct mailbox {
    int wake_fd;        /* eventfd: the list was empty and is no longer */
    struct event *wake; /* owned */
    pthread_mutex_t lock;
    struct mail *head, **tail; /* under the lock */
};

void mailbox_deliver(struct mailbox *b)
{
    pthread_mutex_lock(&b->lock);
    struct mail *m = b->head;
    b->head = NULL;
    b->tail = &b->head;
    pthread_mutex_unlock(&b->lock);
    while (m) {
        struct mail *next = m->next; /* m is the receiver's once it is delivered */
        m->posted = false;
        m->deliver(m);
        m = next;
    }
}

static void wake_cb(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;
    if (!(what & EV_READ) || read(fd, &count, sizeof count) == sizeof count)
        mailbox_deliver(arg);
}

enum rc mailbox_new(struct mailbox **out, struct event_base *loop, struct error *e)
{
    struct mailbox *b = spw_calloc(1, sizeof *b);
    *out = NULL;
    b->tail = &b->head;
    pthread_mutex_init(&b->lock, NULL);
    b->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (b->wake_fd < 0) {
        error_set(e, RC_IO, "no event descriptor: %s", strerror(errno));
        mailbox_free(b);
        return RC_IO;
    }
    b->wake = event_new(loop, b->wake_fd, EV_READ | EV_PERSIST, wake_cb, b);
    if (!b->wake || event_add(b->wake, NULL) != 0) {
        mailbox_free(b);
        return error_set(e, RC_IO, "the loop takes no event");
    }
    *out = b;
    return RC_OK;
}

void mailbox_free(struct mailbox *b)
{
    if (!b)
        return;
    while (b->head) /* what is delivered may post to its own loop */
        mailbox_deliver(b);
    if (b->wake)
        event_free(b->wake);
    if (b->wake_fd >= 0)
        close(b->wake_fd);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

/* True: the list was empty, so that nobody has woken the loop yet. */
static bool append(struct mailbox *b, struct mail *m)
{
    pthread_mutex_lock(&b->lock);
    SPW_ASSERT(!m->posted); /* twice, and the list would end here, or never */
    m->posted = true;
    m->next = NULL;
    bool first = b->head == NULL;
    *b->tail = m;
    b->tail = &m->next;
    pthread_mutex_unlock(&b->lock);
    return first;
}

void mailbox_post(struct mailbox *b, struct mail *m)
{
    const uint64_t one = 1;
    /* Whoever empties the list in between leaves one wake-up for nothing. */
    if (append(b, m))
        SPW_ASSERT(write(b->wake_fd, &one, sizeof one) == sizeof one);
}

void mailbox_post_here(struct mailbox *b, struct mail *m)
{
    if (append(b, m))
        event_active(b->wake, EV_TIMEOUT, 0);
}

struct called {
    struct mail mail;
    void (*call)(void *arg);
    void *arg;
};

static void deliver_call(struct mail *m)
{
    struct called *c = (struct called *)m; /* its first member */
    c->call(c->arg);
    free(c);
}

void mailbox_call(struct mailbox *b, void (*call)(void *arg), void *arg)
{
    struct called *c = spw_calloc(1, sizeof *c);
    *c = (struct called){.mail = {.deliver = deliver_call}, .call = call, .arg = arg};
    mailbox_post(b, &c->mail);
}
