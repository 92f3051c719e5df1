/* Weights that go to a device when they are first used: a step asks for each layer before its operations. The first
 * step starts a thread that uploads layer after layer, so that the next one is on its way while this one is computed;
 * when that step is over all are there, and there is no thread any more. What fails stays failed: each step is told. */
#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/thread.h"
#include "engine/model/model_internal.h"

struct upload {
    struct engine *en;
    struct k_copy *copies; /* owned */
    size_t *first;         /* owned, [n + 1]: copies of part i are first[i] .. first[i + 1] - 1 */
    int32_t n;             /* parts: what is of no layer, then the layers */
    pthread_t thread;
    bool started; /* of the engine's thread */
    pthread_mutex_t lock;
    pthread_cond_t news;
    int32_t n_there; /* under the lock, like what follows */
    enum k_status status;
    bool stop;
};

struct upload *upload_new(struct engine *en, struct k_copy *copies, size_t *first)
{
    struct upload *u = spw_calloc(1, sizeof *u);
    u->en = en;
    u->copies = copies;
    u->first = first;
    u->n = en->m->hp.n_layer + 1;
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->news, NULL);
    return u;
}

/* One part more, or none will come any more. */
static bool tell(struct upload *u, enum k_status s)
{
    pthread_mutex_lock(&u->lock);
    if (s == K_OK)
        u->n_there++;
    else
        u->status = s;
    bool go_on = s == K_OK && !u->stop;
    pthread_cond_signal(&u->news);
    pthread_mutex_unlock(&u->lock);
    return go_on;
}

static void *upload_all(void *arg)
{
    struct upload *u = arg;
    const struct engine *en = u->en;
    enum k_status s = K_OK;
    for (int32_t i = 0; i < u->n; i++) {
        s = en->ops->put_many(en->ctx, u->copies + u->first[i], u->first[i + 1] - u->first[i]);
        if (!tell(u, s))
            break;
    }
    return NULL;
}

/* Without a thread, here and now. */
static void start(struct upload *u)
{
    u->started = thread_start(&u->thread, "upload", upload_all, u) == 0;
    if (!u->started)
        upload_all(u);
}

enum k_status upload_wait(struct engine *en, int32_t layer)
{
    struct upload *u = en->upload;
    if (!u)
        return K_OK;
    if (!u->started && u->n_there == 0 && u->status == K_OK)
        start(u);
    pthread_mutex_lock(&u->lock);
    while (u->n_there < layer + 2 && u->status == K_OK)
        pthread_cond_wait(&u->news, &u->lock);
    enum k_status s = u->n_there < layer + 2 ? u->status : K_OK;
    pthread_mutex_unlock(&u->lock);
    return s;
}

/* The thread is at its end, after the part that it is at. */
static void join(struct upload *u)
{
    pthread_mutex_lock(&u->lock);
    u->stop = u->n_there < u->n;
    pthread_mutex_unlock(&u->lock);
    if (u->started)
        pthread_join(u->thread, NULL);
    u->started = false;
}

void upload_free(struct engine *en)
{
    struct upload *u = en->upload;
    if (!u)
        return;
    join(u);
    pthread_mutex_destroy(&u->lock);
    pthread_cond_destroy(&u->news);
    free(u->copies);
    free(u->first);
    free(u);
    en->upload = NULL;
}

void upload_step_over(struct engine *en, enum k_status s)
{
    struct upload *u = en->upload;
    if (!u)
        return;
    if (s == K_OK) {
        upload_free(en);
        return;
    }
    join(u); /* what the backend says of a failure is not changed any more */
    if (u->n_there < u->n && u->status == K_OK)
        u->status = K_DEVICE;
}
