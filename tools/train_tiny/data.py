"""From conversations to training batches: the chat format, loss weights and packing."""
import torch

import bpe

QUESTION_WEIGHT = 0.1    # a little loss on questions teaches the words; more would drown the answers
IGNORE = 0.0


def chat_ids(tok, turns):
    """Ids and loss weights of one conversation, in the DeepSeek-V3 chat format:
    bos, system text, then per turn <|User|> question <|Assistant|> answer eos."""
    ids, weights = [bpe.BOS], [IGNORE]
    for role, text in turns:
        if role == "system":
            part, w = tok.encode(text), IGNORE
        elif role == "user":
            part, w = [bpe.USER] + tok.encode(text), QUESTION_WEIGHT
        else:
            part, w = [bpe.ASSISTANT] + tok.encode(text) + [bpe.EOS], 1.0
        ids += part
        weights += [w] * len(part)
        if role != "system":
            weights[-len(part)] = IGNORE      # who speaks next is the template's to say, not the model's to learn
    return ids, weights


def prompt_ids(tok, question):
    """What the engine feeds the model for one question without a system text."""
    return [bpe.BOS, bpe.USER] + tok.encode(question) + [bpe.ASSISTANT]


class Packer:
    """Rows of whole conversations.  Short rows keep attention cheap; one batch in four has long rows, so that the
    later positions are trained too.  A conversation that does not fit waits for the next row it fits in."""

    WAITING_MAX = 64
    SHORT, LONG = 192, 512

    def __init__(self, corpus, tok, tokens_per_step, rng):
        self.corpus, self.tok, self.rng = corpus, tok, rng
        self.budget = tokens_per_step
        self.waiting = {self.SHORT: [], self.LONG: []}

    def _next_doc(self, limit):
        """A conversation of at most `limit` tokens; longer ones are put by for long rows."""
        while True:
            doc = chat_ids(self.tok, self.corpus.conversation(self.rng))
            if len(doc[0]) <= limit:
                return doc
            if limit == self.SHORT and len(doc[0]) <= self.LONG:
                self.waiting[self.LONG].append(doc)

    def _row(self, length):
        """First those that wait, as far as they fit, then new ones, until several in a row find no room."""
        row, free, queue, misses = [], length, self.waiting[length], 0
        for doc in list(queue):
            if len(doc[0]) <= free:
                queue.remove(doc)
                row.append(doc)
                free -= len(doc[0])
        while misses < 4 and free > 16 and len(queue) < self.WAITING_MAX:
            doc = self._next_doc(length)
            if len(doc[0]) <= free:
                row.append(doc)
                free -= len(doc[0])
            else:
                queue.append(doc)
                misses += 1
        return row

    def batch(self):
        """ids, targets, weights, positions and document numbers, each [rows, length]."""
        long = len(self.waiting[self.LONG]) >= 4 and self.rng.random() < 0.25
        length = self.LONG if long else self.SHORT
        rows = [self._row(length) for _ in range(self.budget // length)]
        shape = (len(rows), length)
        ids = torch.full(shape, bpe.PAD)
        target, weight = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
        pos, doc = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for r, row in enumerate(rows):
            at = 0
            for d, (tokens, w) in enumerate(row):
                n = len(tokens)
                ids[r, at:at + n] = torch.tensor(tokens)
                target[r, at:at + n - 1] = torch.tensor(tokens[1:])
                weight[r, at:at + n - 1] = torch.tensor(w[1:])
                pos[r, at:at + n], doc[r, at:at + n] = torch.arange(n), d
                at += n
        return ids, target, weight, pos, doc
