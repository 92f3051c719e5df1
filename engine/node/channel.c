#include "engine/node/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"

#define READS_PER_TURN 64
#define RETRY_MS       5 /* the system has too many descriptors under way */

/* On the wire: this, then the bytes. */
struct header {
    uint32_t type, n;
    uint64_t reserved; /* keeps what follows aligned to 16 */
};

struct queued {
    struct queued *next;
    struct header header;
    int fd;
    unsigned char data[];
};

struct channel {
    int fd;
    struct event *rd, *wr, *retry, *closed; /* owned */
    struct channel_handlers h;
    void *arg;
    struct queued *first, **tail;
    int n_queued;
    bool deaf;   /* the other end takes nothing more; what it has sent before is still read */
    bool broken; /* on_closed was called, or is about to be */
    bool *freed; /* set while a handler runs: where to note that it freed us */
    _Alignas(16) unsigned char in[sizeof(struct header) + CHANNEL_BYTES_MAX];
};

enum rc channel_pair(int fds[2], struct error *e)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
        return error_set(e, RC_IO, "cannot make a socket pair: %s", strerror(errno));
    for (int i = 0; i < 2; i++) { /* as much as one message needs; the system's default may be less */
        int bytes = 2 * (int)sizeof(((struct channel *)0)->in);
        (void)setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    return RC_OK;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

/* 0, or an errno. */
static int send_now(int to, const struct header *header, const void *data, int fd)
{
    struct iovec parts[] = {{.iov_base = (void *)(uintptr_t)header, .iov_len = sizeof *header},
                            {.iov_base = (void *)(uintptr_t)data, .iov_len = header->n}};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = header->n ? 2 : 1};
    if (fd >= 0) {
        m.msg_control = control.bytes;
        m.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    while (sendmsg(to, &m, MSG_NOSIGNAL) < 0) {
        if (errno != EINTR)
            return errno;
    }
    return 0;
}

/* Is it only for the moment? Then be called again. */
static bool wait_to_send(struct channel *c, int code)
{
    const struct timeval soon = {.tv_usec = RETRY_MS * 1000};
    if (code == EAGAIN)
        return event_add(c->wr, NULL) == 0;
    if (code == ETOOMANYREFS || code == ENOBUFS || code == ENOMEM)
        return event_add(c->retry, &soon) == 0;
    return false;
}

static void drop_queue(struct channel *c)
{
    while (c->first) {
        struct queued *q = c->first;
        c->first = q->next;
        if (q->fd >= 0)
            close(q->fd);
        free(q);
    }
    c->tail = &c->first;
    c->n_queued = 0;
}

static void break_later(struct channel *c)
{
    if (c->broken)
        return;
    c->broken = c->deaf = true;
    drop_queue(c);
    event_del(c->rd);
    event_del(c->wr);
    event_del(c->retry);
    event_active(c->closed, EV_TIMEOUT, 0);
}

/* It is gone, or going: its last messages, then the end, are for on_readable() to find. */
static void give_up_sending(struct channel *c)
{
    c->deaf = true;
    drop_queue(c);
    event_del(c->wr);
    event_del(c->retry);
}

enum rc channel_send(struct channel *c, uint32_t type, const void *data, size_t n, int fd)
{
    SPW_ASSERT(n <= CHANNEL_BYTES_MAX);
    const struct header header = {.type = type, .n = (uint32_t)n};
    enum rc rc = c->deaf ? RC_IO : c->n_queued >= CHANNEL_QUEUE_MAX ? RC_FULL : RC_OK;
    int code = rc || c->first ? EAGAIN : send_now(c->fd, &header, data, fd);
    if (!rc && code && (c->first || wait_to_send(c, code))) {
        struct queued *q = spw_malloc(sizeof *q + n);
        *q = (struct queued){.header = header, .fd = fd};
        if (n)
            memcpy(q->data, data, n);
        *c->tail = q;
        c->tail = &q->next;
        c->n_queued++;
        return RC_OK;
    }
    if (fd >= 0)
        close(fd);
    if (!rc && code == EMSGSIZE) {
        rc = RC_FULL; /* this system takes less than ours do */
    } else if (!rc && code) {
        give_up_sending(c);
        rc = RC_IO;
    }
    return rc;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct channel *c = arg;
    (void)fd;
    (void)what;
    while (c->first) {
        struct queued *q = c->first;
        int code = send_now(c->fd, &q->header, q->data, q->fd);
        if (code) {
            if (!wait_to_send(c, code))
                give_up_sending(c);
            return;
        }
        c->first = q->next;
        if (!c->first)
            c->tail = &c->first;
        c->n_queued--;
        if (q->fd >= 0)
            close(q->fd);
        free(q);
    }
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

static int take_fd(struct msghdr *m)
{
    int fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
    }
    return fd;
}

/* Bytes of the next message with its header; 0: the other end is gone; -1: nothing more for now. */
static ptrdiff_t receive(struct channel *c, int *fd)
{
    struct iovec part = {.iov_base = c->in, .iov_len = sizeof c->in};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr m = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ptrdiff_t n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == ECONNRESET) /* it closed with messages of ours unread: said once, before what it had sent */
        n = recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC);
    *fd = -1;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    if (n > 0)
        *fd = take_fd(&m);
    return n;
}

static void read_messages(struct channel *c, int n_max)
{
    bool freed = false;
    /* cppcheck-suppress autoVariables; taken back below */
    c->freed = &freed;
    for (int i = 0; i < n_max && !c->broken; i++) {
        int passed;
        ptrdiff_t n = receive(c, &passed);
        struct header *header = (struct header *)c->in;
        if (n < 0)
            break;
        if (n < (ptrdiff_t)sizeof *header || header->n != (size_t)n - sizeof *header) {
            if (passed >= 0)
                close(passed);
            break_later(c);
            break;
        }
        const struct channel_message m = {
            .type = header->type, .data = c->in + sizeof *header, .n = header->n, .fd = passed};
        c->h.on_message(&m, c->arg);
        if (freed)
            return;
    }
    c->freed = NULL;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    read_messages(arg, READS_PER_TURN);
}

void channel_receive(struct channel *c)
{
    read_messages(c, CHANNEL_QUEUE_MAX);
}

static void on_closed(evutil_socket_t fd, short what, void *arg)
{
    struct channel *c = arg;
    (void)fd;
    (void)what;
    c->h.on_closed(c->arg); /* may free it: nothing after */
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

enum rc channel_new(struct channel **out, struct event_base *loop, int fd, const struct channel_handlers *h, void *arg,
                    struct error *e)
{
    struct channel *c = spw_calloc(1, sizeof *c);
    *c = (struct channel){.fd = fd, .h = *h, .arg = arg};
    c->tail = &c->first;
    c->rd = event_new(loop, fd, EV_READ | EV_PERSIST, on_readable, c);
    c->wr = event_new(loop, fd, EV_WRITE, on_writable, c);
    c->retry = event_new(loop, -1, 0, on_writable, c);
    c->closed = event_new(loop, -1, 0, on_closed, c);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || !c->rd || !c->wr || !c->retry ||
        !c->closed || event_add(c->rd, NULL) != 0) {
        channel_free(c);
        return error_set(e, RC_IO, "cannot watch descriptor %d: %s", fd, strerror(errno));
    }
    *out = c;
    return RC_OK;
}

void channel_free(struct channel *c)
{
    struct event *events[] = {c ? c->rd : NULL, c ? c->wr : NULL, c ? c->retry : NULL, c ? c->closed : NULL};
    if (!c)
        return;
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (events[i])
            event_free(events[i]);
    }
    drop_queue(c);
    close(c->fd);
    if (c->freed)
        *c->freed = true;
    free(c);
}
