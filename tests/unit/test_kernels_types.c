/* Tensor types: every quantised type's values on blocks worked out by an independent element-by-element program, half
 * precision both ways, and what quantising loses, against the step of each format.
 * links: spw_kernels */
#include "tests/unit/test.h"

#include "tests/unit/kernels_help.h"

/* Random blocks with chosen scales; values at eight places as exact hexadecimal floats. */
static const struct {
    enum k_type type;
    const char *block;
    int at[8];
    float value[8];
} vectors[] = {
    {K_Q4_0,
     "c0a4e652e44da7f2370d9e260e271365a3a6",
     {0, 2, 7, 12, 17, 19, 28, 31},
     {0x1.3000000000000p-5f, 0x1.3000000000000p-4f, -0x1.7c00000000000p-4f, 0x1.7c00000000000p-4f,
      0x1.c800000000000p-5f, 0x1.3000000000000p-4f, 0x1.0a00000000000p-3f, -0x1.3000000000000p-5f}},
    {K_Q4_1,
     "65b7fdb45a67036f9b540d6b8f0be21124179c3d",
     {0, 2, 8, 19, 21, 27, 29, 31},
     {-0x1.3bbc000000000p+2f, -0x1.b2c0000000000p+0f, -0x1.cfa0000000000p+2f, -0x1.8ad8000000000p+1f,
      -0x1.4fb0000000000p+1f, -0x1.8c40000000000p-1f, -0x1.8c40000000000p-1f, -0x1.b2c0000000000p+0f}},
    {K_Q5_0,
     "5aafe69514da8c659ce2b10cccdaebf990d19838ec0b",
     {0, 4, 5, 10, 18, 19, 29, 31},
     {0x1.d680000000000p-2f, 0x1.b918000000000p+0f, -0x1.60e0000000000p+0f, -0x0.0p+0f, -0x1.08a8000000000p+0f,
      0x1.d680000000000p-3f, 0x1.7e48000000000p+0f, -0x0.0p+0f}},
    {K_Q5_1,
     "c7ac7ab494ba97ae8b15442ee2db611a91bfe39469733a92",
     {0, 7, 14, 16, 18, 20, 22, 31},
     {-0x1.19d4000000000p+0f, -0x1.1c3c000000000p+1f, -0x1.06b8000000000p+0f, -0x1.0920000000000p+1f,
      -0x1.c5d0000000000p+0f, -0x1.4274000000000p+1f, -0x1.7490000000000p-1f, -0x1.12ae000000000p+1f}},
    {K_Q8_0,
     "f3b9f8c6eff26b5010af3177d161e79587a766ec30e4037458a9905cad87bd4c983f",
     {0, 3, 10, 11, 16, 17, 19, 31},
     {0x1.7cc0000000000p+2f, 0x1.4d28000000000p+3f, 0x1.179d000000000p+5f, -0x1.2089800000000p+6f,
      -0x1.2f69000000000p+6f, 0x1.dbf0000000000p+3f, 0x1.4d28000000000p+4f, -0x1.76cd000000000p+5f}},
    {K_Q2_K,
     "20edbcba3acce672084ab649fcbce49b38bdecface4abd12108f391ebc070e83e8180a6bd4f43a2afffcd3c12ef89057"
     "5575e826e2cbeaee82af2c7d696cf46b977c090af4e146f6d03110ab86efde13cd2ea637",
     {0, 18, 24, 70, 122, 216, 242, 255},
     {-0x1.e980000000000p-1f, -0x1.f6fc000000000p+1f, -0x1.462a000000000p+1f, 0x1.c0f8000000000p+0f,
      -0x1.5ab4000000000p+1f, -0x1.fdd8000000000p+1f, -0x1.1358000000000p+2f, -0x1.1358000000000p+2f}},
    {K_Q3_K,
     "455971b21ae105aab2d6a3100b08880f0f422dbb36fb94b3cb6d424f813caaa5b348f4930b893bfe338f65aea5a969d2"
     "70831572af40db4852eb74b74f3ac362881215e31ed32cab3d56d55807afc6053558cef092a9317629b2ff5ae637052b"
     "3839659c78fdf91d0aaa627e08ad",
     {0, 64, 101, 102, 190, 224, 235, 255},
     {-0x1.e300000000000p+0f, -0x1.e300000000000p+0f, -0x1.cee0000000000p+1f, -0x1.cee0000000000p+2f,
      -0x1.f720000000000p+0f, -0x1.4200000000000p-3f, -0x1.e300000000000p-3f, 0x0.0p+0f}},
    {K_Q4_K,
     "2a25f436e7f9a0141afb962a02f2fd727628d2661118a88c1f772047597125e27e970d23d952bcd1b0aa366e09162edd"
     "5f30db8c4d9a46473a6ad6b44ddf506a4a1b89fc406dd85b24f0c6ae05765ae2c99964615ddf2df5ff87123bbdc0a226"
     "2a7c3e15f09a1c2dbd7dbb267686613b898c94a8eae9bb3b9e9016037f84267c2e8cc2d45fccd096cf05ae2ec55c4343",
     {0, 33, 82, 145, 157, 177, 244, 255},
     {-0x1.a507000000000p+2f, -0x1.7570c00000000p+4f, -0x1.e020000000000p+1f, 0x1.834e000000000p+3f,
      0x1.834e000000000p+2f, -0x1.4515400000000p+4f, -0x1.6b8e000000000p+1f, -0x1.70b8000000000p+1f}},
    {K_Q5_K,
     "a9a5042a163ff7837ae041f3f48e1a9ec2e1aba7db721bad818862bd657ad20d5d9ae6748fcb47e63483f8de9114acc7"
     "b6d0aef39318e0df7f2b3aaea36941ccc86e2c8fa3f1726423e4e765047a2366ad0ce5642c68811a5c14457b0bcd60a2"
     "866883662879ef0f7dc9cb307db13d110d2d13fc0a81713531eccc70a5b38c29f942241c95c10d570943c9995d98750d"
     "a08c351ac8490f0016bb18917f4cb926b3d75f899c91f919454eeef22f8a155d",
     {0, 32, 89, 94, 122, 155, 245, 255},
     {-0x1.693d000000000p+2f, -0x1.38e7680000000p+5f, -0x1.5fb9e00000000p+3f, -0x1.1a7fd80000000p+5f,
      -0x1.1043000000000p+2f, -0x1.d57e000000000p+1f, -0x1.c1af600000000p+4f, -0x1.8097e00000000p+4f}},
    {K_Q6_K,
     "c3ce871d26ee53d92407f27cdafa3bfea39b52fad7154b77682cfb7a8b96dc7bbe8dd54f9e89fc155ae2e424b3f7281a"
     "55a1eabf7efbb65765a887bd9a1bc743a2f7867abbdd2fd4f6a12ab16e0a5429c27f2e84f399e90576f8883453ca73f3"
     "0da5b7f378e03b8735cf9b5c6bbe8725e544a8b00b590d8b437505eaad41ec062aa815c2252e3287069b4f4cab0e7ffa"
     "a23696a492de02dda2774c17c7f339b2f6406fd80872d84218a8b5849709e05dd4a183e84644c32a6fe70e5b16b99dc5"
     "27f20839a4f957888c24a48a202470c7c839",
     {0, 157, 195, 202, 208, 219, 253, 255},
     {0x1.5234000000000p+6f, -0x1.3830000000000p+7f, -0x1.a040000000000p+7f, 0x1.a040000000000p+8f,
      -0x1.a040000000000p+6f, -0x1.5234000000000p+8f, -0x1.4988000000000p+7f, -0x1.4988000000000p+9f}},
    {K_IQ4_NL,
     "f1abf531922a5bcea582483d97447ed19366",
     {0, 1, 9, 12, 24, 26, 28, 31},
     {0x1.15f3000000000p+1f, 0x1.9cf4000000000p+2f, -0x1.11fa800000000p+2f, -0x1.6164800000000p+2f,
      0x1.8521000000000p+1f, -0x1.9cf4000000000p-1f, 0x1.3da8000000000p-1f, 0x1.5d6c000000000p+0f}},
    {K_IQ4_XS,
     "ad38e4785240594204b79231241e49b12964ea9a082cdef477cb225849837d721f2afece079fe0efe5e91eb9ec0ff0fc"
     "cf1e7a59ddeb7af44ad079f905c7585d9b259e140038703889f8261a7c91123a76295778dd555b32adf6755613d05134"
     "b52a8f7ba1d0c29f244739fc759b7ae6cd233a9c6bc826d734107d0039c5be7a4347c1e8b99129a7",
     {0, 31, 100, 170, 201, 214, 233, 255},
     {0x1.ad96600000000p+9f, -0x1.ef57300000000p+10f, -0x1.9921800000000p+8f, 0x1.4a3a200000000p+8f,
      -0x1.55eaa00000000p+9f, -0x1.a4d2000000000p+6f, 0x1.188c000000000p+6f, -0x1.5eaf000000000p+7f}},
};

static void blocks_have_their_values(void)
{
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        const struct k_type_info *info = k_type_info(vectors[i].type);
        uint8_t block[256];
        float y[256];
        CHECK_INT(strlen(vectors[i].block), 2 * info->block_bytes);
        for (int b = 0; b < info->block_bytes; b++)
            sscanf(vectors[i].block + 2 * b, "%2hhx", &block[b]);
        CHECK_INT(k_dequantise(y, block, vectors[i].type, info->block_elems), K_OK);
        for (int k = 0; k < 8; k++)
            CHECK(y[vectors[i].at[k]] == vectors[i].value[k]);
    }
}

static void type_table_is_whole(void)
{
    CHECK(k_type_info(4) == NULL && k_type_info(K_TYPE_COUNT) == NULL && k_type_info(UINT32_MAX) == NULL);
    CHECK_INT(k_row_bytes(K_Q6_K, 512), 420);
    CHECK_INT(k_row_bytes(K_F32, 3), 12);
    CHECK_INT(k_row_bytes(4, 3), 0);
    CHECK_STR(k_type_info(K_Q4_K)->name, "q4_k");
    float y[64] = {0};
    uint8_t block[34] = {0};
    CHECK_INT(k_dequantise(y, block, 4, 32), K_UNSUPPORTED);
    CHECK_INT(k_dequantise(y, block, K_Q8_0, 31), K_BAD_SHAPE);
    CHECK_INT(k_quantise(block, y, K_Q3_K, 256), K_UNSUPPORTED);
    CHECK_INT(k_quantise(block, y, K_Q8_0, 33), K_BAD_SHAPE);
}

/* Every half survives the way to float and back; every float goes to a nearest half, to the even one on a tie. */
static void halves_round_to_nearest_even(void)
{
    int lost = 0, wrong = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        bool nan = (h & 0x7fff) > 0x7c00;
        uint16_t back = k_f32_to_f16(k_f16_to_f32((uint16_t)h));
        lost += nan ? (back & 0x7fff) <= 0x7c00 : back != h;
    }
    CHECK_INT(lost, 0);
    for (uint32_t h = 0; h < 0x7bff; h++) { /* the midpoint of neighbours is exact in float */
        float low = k_f16_to_f32((uint16_t)h), high = k_f16_to_f32((uint16_t)(h + 1)), middle = (low + high) * 0.5f;
        uint32_t even = h % 2 ? h + 1 : h;
        wrong += k_f32_to_f16(middle) != even || k_f32_to_f16(-middle) != (even | 0x8000);
        wrong += k_f32_to_f16(nextafterf(middle, 0.0f)) != h || k_f32_to_f16(nextafterf(middle, 1e9f)) != h + 1;
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(k_f32_to_f16(65519.996f), 0x7bff);
    CHECK_INT(k_f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(k_f32_to_f16(-INFINITY), 0xfc00);
    CHECK_INT(k_f32_to_f16(1e-30f), 0);
    CHECK(isnan(k_f16_to_f32(k_f32_to_f16(NAN))));
}

/* Half a step where codes reach both ends of [-1, 1]; a whole one where the positive end has a code less and is
 * clipped. Scales of 6 (8) bits are off by up to 1 / 126 (1 / 254) of the largest, and so is a minimum. */
static void quantising_loses_at_most_a_step(void)
{
    static const struct {
        enum k_type type;
        float bound; /* of values within [-1, 1] */
    } cases[] = {
        {K_F32, 0.0f},
        {K_F16, 0x1p-12f},
        {K_BF16, 0x1p-9f},
        {K_Q8_0, 1.02f / 254.0f},
        {K_Q4_0, 1.01f / 8.0f},
        {K_Q5_0, 1.01f / 16.0f},
        {K_Q4_K, 1.0f / 15.0f + 3.0f / 126.0f},
        {K_Q6_K, 1.01f / 32.0f + 1.0f / 254.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum { N = 256 * 20 };
        float *x = help_floats(N, 1.0f), *y = help_floats(N, 1.0f), worst = 0.0f;
        uint8_t *blocks = malloc(k_row_bytes(cases[i].type, N));
        for (int k = 0; k < 256; k++)
            x[k] = 0.0f, x[256 + k] *= 1e-9f, x[512 + k] = k % 32 ? 0.0f : -1.0f;
        CHECK_INT(k_quantise(blocks, x, cases[i].type, N), K_OK);
        CHECK_INT(k_dequantise(y, blocks, cases[i].type, N), K_OK);
        for (int k = 0; k < N; k++)
            worst = fmaxf(worst, fabsf(x[k] - y[k]));
        if (!(worst <= cases[i].bound))
            fprintf(stderr, "%s: %g > %g\n", k_type_info(cases[i].type)->name, (double)worst, (double)cases[i].bound);
        CHECK(worst <= cases[i].bound);
        for (int k = 0; k < 256; k++)
            CHECK(y[k] == 0.0f);
        free(x), free(y), free(blocks);
    }
}

/* Whatever goes in, finite blocks come out. */
static void extremes_stay_finite(void)
{
    float x[256], y[256];
    uint8_t blocks[1024];
    for (int i = 0; i < 256; i++)
        x[i] = i % 3 ? (i % 2 ? 3e38f : -3e38f) : (i % 5 ? NAN : INFINITY);
    static const enum k_type types[] = {K_Q8_0, K_Q4_0, K_Q5_0, K_Q4_K, K_Q6_K};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        CHECK_INT(k_quantise(blocks, x, types[t], 256), K_OK);
        CHECK_INT(k_dequantise(y, blocks, types[t], 256), K_OK);
        for (int i = 0; i < 256; i++)
            CHECK(isfinite(y[i]));
    }
}

int main(void)
{
    TEST(blocks_have_their_values);
    TEST(type_table_is_whole);
    TEST(halves_round_to_nearest_even);
    TEST(quantising_loses_at_most_a_step);
    TEST(extremes_stay_finite);
    return TEST_RESULT();
}
