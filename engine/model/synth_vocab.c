/* A vocabulary for models of random weights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/model/synth.h"

/* Numbers of tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

struct family {
    const char *arch, *pre;
    const char *specials[8]; /* the first is BOS, the second ends an answer */
    bool add_bos;
    const char *chat_template;
};

/* The shortest text that says which family it is. */
static const struct family families[] = {
    {"qwen2",
     "qwen2",
     {"<|endoftext|>", "<|im_end|>", "<|im_start|>"},
     false,
     "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
     "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"llama",
     "llama-bpe",
     {"<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"},
     true,
     "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' "
     "+ m['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"deepseek2",
     "deepseek-v3",
     {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"},
     true,
     "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
     "{% elif m['role'] == 'assistant' %}{% set c = m['content'] %}"
     "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
     "{{ '<｜Assistant｜>' + c + '<｜end▁of▁sentence｜>' }}"
     "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"},
};

/* The byte alphabet of byte-level BPE: printable Latin-1 stands for itself, the rest follows from U+0100 on. */
static int byte_token(unsigned byte, int *extra, char *out)
{
    bool plain = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    unsigned cp = plain ? byte : 256u + (unsigned)(*extra)++;
    if (cp < 128) {
        out[0] = (char)cp;
        return 1;
    }
    out[0] = (char)(0xC0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 63));
    return 2;
}

void synth_put_vocab(struct gguf_writer *w, const char *arch, int64_t n_vocab)
{
    const struct family *f = &families[0];
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].arch, arch) == 0)
            f = &families[i];
    SPW_ASSERT(n_vocab >= 280);
    struct gguf_str *tokens = spw_calloc((size_t)n_vocab, sizeof *tokens);
    int32_t *types = spw_calloc((size_t)n_vocab, sizeof *types);
    char *text = spw_calloc((size_t)n_vocab, 16);
    int n_special = 0, extra = 0;
    while (n_special < 8 && f->specials[n_special])
        n_special++;
    int64_t first_special = n_vocab - n_special;
    for (int64_t i = 0; i < n_vocab; i++) {
        char *s = text + i * 16;
        types[i] = TYPE_NORMAL;
        tokens[i].s = s;
        if (i < 256) {
            tokens[i].n = (size_t)byte_token((unsigned)i, &extra, s);
        } else if (i < first_special) {
            tokens[i].n = (size_t)snprintf(s, 16, "\xC4\xA0w%lld", (long long)i); /* " w300" */
        } else {
            tokens[i].s = f->specials[i - first_special];
            tokens[i].n = strlen(tokens[i].s);
            types[i] = strstr(tokens[i].s, "think>") ? TYPE_USER_DEFINED : TYPE_CONTROL;
        }
    }
    gguf_put_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_put_str(w, "tokenizer.ggml.pre", f->pre);
    gguf_put_strs(w, "tokenizer.ggml.tokens", tokens, (uint64_t)n_vocab);
    gguf_put_i32s(w, "tokenizer.ggml.token_type", types, (uint64_t)n_vocab);
    gguf_put_strs(w, "tokenizer.ggml.merges", NULL, 0);
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)first_special);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)first_special + 1);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", f->add_bos);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
    gguf_put_str(w, "tokenizer.chat_template", f->chat_template);
    free(text);
    free(types);
    free(tokens);
}
