#!/usr/bin/env python3
"""Is the corpus wide enough for the held-out questions?  Run before training.

    python coverage.py questions/dev.json            # totals and every weak question
    python coverage.py questions/test.json --blind   # totals only: nobody should read the test questions

Two cheap signs, both of which went with right answers in trials: the share of a question's content words that occur in
the training questions of its own intent (two thirds is enough), and whether a naive Bayes classifier, trained on
generated questions, finds the intent.
"""
import argparse
import json
import math
import random
from collections import Counter, defaultdict

from corpus import STOP_WORDS, Corpus, normalise

SAMPLES = 60_000


class NaiveBayes:
    """Multinomial over words and word pairs."""

    def __init__(self):
        self.count, self.total, self.words = defaultdict(Counter), Counter(), set()

    @staticmethod
    def features(text):
        w = normalise(text).split()
        return w + [a + " " + b for a, b in zip(w, w[1:])]

    def add(self, text, label):
        f = self.features(text)
        self.count[label].update(f)
        self.total[label] += len(f)
        self.words.update(f)

    def classify(self, text):
        f = [w for w in self.features(text) if w in self.words]
        n = 0.2 * len(self.words)
        score = {k: sum(math.log((c[w] + 0.2) / (self.total[k] + n)) for w in f) for k, c in self.count.items()}
        return max(score, key=score.get)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("questions")
    ap.add_argument("--blind", action="store_true")
    args = ap.parse_args()
    corpus, rng, nb = Corpus(), random.Random(3), NaiveBayes()
    seen = defaultdict(set)
    for _ in range(SAMPLES):
        q, _, intent = corpus.exchange(rng)
        nb.add(q, intent)
        seen[intent].update(normalise(q).split())
    for _ in range(SAMPLES // 10):
        q, _ = corpus.stories.sample(rng)
        nb.add(q, "story")
        seen["story"].update(normalise(q).split())
    with open(args.questions, encoding="utf-8") as f:
        questions = json.load(f)
    vocabulary = set().union(*seen.values())
    found = covered = 0
    for q in questions:
        intent = "story" if q["intent"].startswith("story") else q["intent"]
        words = [w for w in normalise(q["q"]).split() if w not in STOP_WORDS]
        share = sum(w in seen[intent] for w in words) / max(1, len(words))
        guess = nb.classify(q["q"])
        found += guess == intent
        covered += share >= 2 / 3
        if not args.blind and (guess != intent or share < 2 / 3):
            print("%-24s %3.0f%%  guess %-24s %s   missing: %s" % (
                intent, 100 * share, guess if guess != intent else "ok", q["q"],
                " ".join(w if w in vocabulary else w.upper() for w in words if w not in seen[intent])))
    n = len(questions)
    print("%d questions: %d covered (%.0f%%), naive Bayes right on %d (%.0f%%)"
          % (n, covered, 100 * covered / n, found, 100 * found / n))


if __name__ == "__main__":
    main()
