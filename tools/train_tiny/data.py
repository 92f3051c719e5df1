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


class Openings:
    """Where each canonical answer is decided: the number of its tokens after which no other answer begins alike.

    The rest of an answer follows from its opening and is learned within a few repetitions, while choosing the opening
    is the real task.  So most training conversations end soon after that point, which makes room for more questions."""

    MARGIN = 3

    def __init__(self, tok, answers):
        ids = {a: tok.encode(a) for a in answers}
        self.length = {a: self._decided(x, [y for b, y in ids.items() if b != a]) for a, x in ids.items()}

    @staticmethod
    def _decided(x, others):
        def common(y):
            n = 0
            while n < min(len(x), len(y)) and x[n] == y[n]:
                n += 1
            return n
        return max(map(common, others)) + 1

    def cut(self, ids, weights, answer, tok):
        """Shorten a conversation that ends with `answer`; stories are not in the table and stay whole."""
        if answer not in self.length:
            return ids, weights
        drop = len(tok.encode(answer)) + 1 - self.length[answer] - self.MARGIN      # + 1: eos
        return (ids[:-drop], weights[:-drop]) if drop > 0 else (ids, weights)


class Packer:
    """Rows of whole conversations.  Short rows keep attention cheap; one batch in four has long rows, so that the
    later positions are trained too.  A conversation that does not fit waits for the next row it fits in."""

    WAITING_MAX = 64
    CUT = 0.8           # share of conversations that end with the opening of the last answer
    SHORT, LONG = 192, 512

    def __init__(self, corpus, tok, tokens_per_step, rng):
        self.corpus, self.tok, self.rng = corpus, tok, rng
        self.budget = tokens_per_step
        self.openings = Openings(tok, [i["answer"] for i in corpus.intents.values()])
        self.waiting = {self.SHORT: [], self.LONG: []}

    def _next_doc(self, limit):
        """A conversation of at most `limit` tokens; longer ones are put by for long rows."""
        while True:
            turns = self.corpus.conversation(self.rng)
            doc = chat_ids(self.tok, turns)
            if self.rng.random() < self.CUT:
                doc = self.openings.cut(*doc, turns[-1][1], self.tok)
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
