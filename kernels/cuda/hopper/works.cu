/* hopper_works(). What is known of the hardware says that both kinds add 16 products and the sum so far at once and
 * keep 25 bits below the largest of them (Xie, Wang, Yang and Yang, "MMA-Sim", arXiv 2511.10909, which was held to an
 * H100, bit for bit); this looks at the device at hand. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/hopper/hopper.h"

#define ROWS 64
#define N    (2 * SLICE)
#define X    (2 * N + 16) /* bytes of a row of activations; F16: its scale at the end */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Numbers of all signs, and sizes from 2^-7 to 2^8. */
static void fill(uint16_t *to, int n, enum act_form form, uint32_t *state)
{
    for (int i = 0; i < n; i++) {
        uint32_t u = next_random(state), size = u >> 16 & 15;
        to[i] = (uint16_t)(form == ACT_BF16 ? (u & 0x807f) | (120 + size) << 7 : (u & 0x83ff) | (8 + size) << 10);
    }
}

struct trial {
    uint16_t w[ROWS * N];
    uint8_t x[ROWS * X];
    float y[2][ROWS * ROWS]; /* by the warpgroup's products, and by a warp's */
};

static enum k_status run(struct k_ctx *c, struct trial *t, struct trial *dev, enum act_form form)
{
    struct mul_job j = {};
    j.w = (const uint8_t *)dev->w;
    j.row_bytes = 2 * N;
    j.w_bytes = j.matrix_bytes = sizeof t->w;
    j.form = form;
    j.n = j.np = N;
    j.m = j.n_pairs = (int32_t)(j.y_stride = ROWS);
    j.x = dev->x;
    j.x_bytes = X;
    j.x_div = j.mul = j.n_matrix = 1;
    const struct mul_shape shape = {ROWS, ROWS};
    enum k_status s = copy_in(c->stream, dev, t, sizeof *t);
    j.y = dev->y[0];
    if (s == K_OK)
        s = mul_gemm_hopper(c, &j, shape, 1);
    j.y = dev->y[1];
    if (s == K_OK)
        s = mul_gemm_16(c, &j, shape, 1);
    if (s == K_OK)
        s = copy_out(c->stream, t->y, dev->y, sizeof t->y);
    const enum k_status end = stream_sync(c->stream);
    return s != K_OK ? s : end;
}

bool hopper_works(struct k_ctx *c)
{
    struct trial *t = (struct trial *)malloc(sizeof *t);
    void *dev = NULL;
    uint32_t state = 1;
    bool same = t && c->facts.major == 9 && c->facts.minor == 0 && dev_alloc(&dev, sizeof *t) == K_OK;
    for (int form = ACT_F16; same && form <= ACT_BF16; form++) {
        const float one = 1.0f;
        fill(t->w, ROWS * N, (enum act_form)form, &state);
        for (int i = 0; i < ROWS; i++) {
            fill((uint16_t *)(t->x + i * X), N, (enum act_form)form, &state);
            memcpy(t->x + i * X + 2 * N, &one, sizeof one);
        }
        memset(t->y, 0xff, sizeof t->y);
        same = run(c, t, (struct trial *)dev, (enum act_form)form) == K_OK && t->y[0][0] == t->y[0][0] &&
               memcmp(t->y[0], t->y[1], sizeof t->y[0]) == 0;
    }
    dev_free(dev);
    free(t);
    return same;
}
