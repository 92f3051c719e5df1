"""Byte-level BPE: training, encoding and decoding.

The engine splits text with its built-in "deepseek-v3" pre-tokenizer before it applies the merges, so the very same
three successive splits are done here.  A merge learned across a border which the engine never joins would be a dead
table entry at best, and different ids for the same text at worst.
"""
import json
from collections import Counter, defaultdict

import regex

BOS, EOS, PAD, USER, ASSISTANT = range(5)
SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"]
PRE_TOKENIZER = "deepseek-v3"

# Applied one after the other: what an earlier pattern matched is final, later ones only see what is left between.
SPLITS = [
    regex.compile(r"\p{N}{1,3}"),
    regex.compile(r"[一-龥\u3040-ゟ゠-ヿ]+"),
    regex.compile(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"),
]


def _isolate(pattern, pieces):
    """Cut every piece at the matches of `pattern`; matches and gaps both stay, in order."""
    out = []
    for text, final in pieces:
        if final:
            out.append((text, True))
            continue
        at = 0
        for m in pattern.finditer(text):
            if m.start() > at:
                out.append((text[at:m.start()], False))
            out.append((m.group(), True))
            at = m.end()
        if at < len(text):
            out.append((text[at:], False))
    return out


def pre_tokenize(text):
    """The words which BPE works on, one by one."""
    pieces = [(text, False)]
    for pattern in SPLITS:
        pieces = _isolate(pattern, pieces)
    return [p for p, _ in pieces]


def byte_symbols():
    """One printable character per byte value, in the customary order (printable bytes first)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    table = {b: chr(b) for b in printable}
    table.update({b: chr(256 + i) for i, b in enumerate(others)})
    return table, [table[b] for b in printable + others]


BYTE_TO_SYMBOL, ALPHABET = byte_symbols()
SYMBOL_TO_BYTE = {s: b for b, s in BYTE_TO_SYMBOL.items()}


def _merge(symbols, a, b):
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and symbols[i] == a and symbols[i + 1] == b:
            out.append(a + b)
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


class _PairTable:
    """Pair counts over a fixed list of words, kept current while merges are applied."""

    def __init__(self, word_counts):
        self.words = [[BYTE_TO_SYMBOL[b] for b in w.encode("utf-8")] for w in word_counts]
        self.weight = list(word_counts.values())
        self.count, self.where = Counter(), defaultdict(set)
        for i in range(len(self.words)):
            self._add(i, +1)

    def _add(self, i, sign):
        w = self.words[i]
        for pair in zip(w, w[1:]):
            self.count[pair] += sign * self.weight[i]
            self.where[pair].add(i)

    def best(self):
        """The most frequent pair; ties go to the alphabetically first, so that a run can be repeated."""
        return min(self.count.items(), key=lambda kv: (-kv[1], kv[0]))

    def apply(self, pair):
        for i in sorted(self.where.pop(pair)):
            self._add(i, -1)
            self.words[i] = _merge(self.words[i], *pair)
            self._add(i, +1)
        del self.count[pair]


def train(texts, n_vocab):
    """Learn merges until specials + bytes + merges fill `n_vocab`."""
    counts = Counter(w for t in texts for w in pre_tokenize(t))
    table, merges = _PairTable(counts), []
    while len(merges) < n_vocab - len(SPECIALS) - 256:
        pair, n = table.best()
        if n < 2:
            raise ValueError("corpus too small: only %d merges occur twice" % len(merges))
        merges.append(pair)
        table.apply(pair)
    return Tokenizer(merges)


class Tokenizer:
    """Ids: the specials, then the 256 bytes, then one token per merge."""

    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.tokens = SPECIALS + ALPHABET + [a + b for a, b in self.merges]
        self.id_of = {t: i for i, t in enumerate(self.tokens)}
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.cache = {}

    def _encode_word(self, word):
        symbols = [BYTE_TO_SYMBOL[b] for b in word.encode("utf-8")]
        while len(symbols) > 1:
            pair = min(zip(symbols, symbols[1:]), key=lambda p: self.rank.get(p, 1 << 30))
            if pair not in self.rank:
                break
            symbols = _merge(symbols, *pair)
        return [self.id_of[s] for s in symbols]

    def encode(self, text):
        """Ids of plain text; special tokens are never recognised in it."""
        out = []
        for word in pre_tokenize(text):
            if word not in self.cache:
                if len(self.cache) > 200_000:
                    self.cache.clear()
                self.cache[word] = self._encode_word(word)
            out += self.cache[word]
        return out

    def decode(self, ids):
        body = "".join(self.tokens[i] for i in ids if i >= len(SPECIALS))
        return bytes(SYMBOL_TO_BYTE[c] for c in body).decode("utf-8", "replace")

    def save(self, path):
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"pre": PRE_TOKENIZER, "specials": SPECIALS, "merges": [" ".join(m) for m in self.merges]},
                      f, ensure_ascii=False, indent=0)

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as f:
            return cls([m.split(" ") for m in json.load(f)["merges"]])
