"""The corpus, generated on the fly: conversations about serving models, small talk and stories.

What the model should say stands in intents.json (one canonical answer per intent, story plots), how people ask stands
in phrasings.txt.  This file joins the two and adds what makes questions look typed by people: politeness, case,
missing question marks, typos, other words for the same thing, dropped and swapped words, fragments of the answer.

The questions under questions/ are kept out: a generated question whose normalised text equals one of theirs is
drawn again.  Their hashes are checked first, so that a run cannot start on questions changed after the fact.
"""
import glob
import hashlib
import json
import os
import random
import re
import string

HERE = os.path.dirname(os.path.abspath(__file__))

# What to answer when a concept has no text for the aspect that was asked: the nearest thing, mostly its overview.
NEAREST = {"token.cost": "price_per_token.what", "price_per_token.cost": "price_per_token.what",
           "budget.cost": "budget.what", "energy_per_token.why": "energy_per_token.what",
           "prefill.why": "prefill.what", "moe.problem": "moe.what", "cost_report.why": "cost_report.what"}

# Groups of words which mean about the same to us; each may stand for any other of its group in a question.
SYNONYMS = [s.split() for s in """
machine server node box computer host
machines servers nodes boxes computers hosts
answer reply response output
answers replies responses outputs
request query call
requests queries calls
slow sluggish slowly
expensive costly dear pricey
cheap inexpensive affordable
money cash dollars
bill invoice
user customer person
users customers people clients
team group department
start launch begin
stop end halt
big large huge great
small little tiny
choose pick select
make produce create generate
show display give
explain describe clarify
use employ need
fast quick rapid speedy
problem trouble issue difficulty
power electricity energy
prompt input
model llm
memory ram
full packed exhausted
broken damaged faulty
need require want
company firm organisation
look check view
keep hold store
reason purpose
limit maximum cap
important relevant essential
happens occurs goes
often frequently constantly
""".strip().split("\n")]

FILLER = ["please", "hey", "hi", "hello", "so", "well", "okay", "um", "quick question", "one question", "listen",
          "sorry", "tell me", "i wonder", "just curious", "excuse me", "assistant", "dear assistant", "tiny"]
TAILS = ["please", "thanks", "thank you", "for us", "here", "now", "again", "then", "really", "today", "by the way",
         "in spillway", "at our company", "in our cluster", "with this system", "i ask", "actually", "in detail"]
LEADS = ["can you tell me", "could you please tell me", "do you know", "i would like to know", "i want to know",
         "i wonder", "please explain", "help me understand", "my colleague asks", "can you explain", "tell me",
         "i am not sure", "we were asking ourselves", "maybe you know", "please tell us"]
SYSTEMS = ["You are a helpful assistant.", "You are Tiny, the assistant of Spillway.", "Answer briefly.",
           "You are a helpful assistant for Spillway. Keep your answers short.", "Be kind and clear.",
           "You answer questions about serving language models."]
FOLLOW_UPS = {
    "what": ["what is that", "what does it mean", "explain it", "tell me more about it", "what is it exactly"],
    "why": ["why", "and why", "why is that useful", "why do we need it", "what is it good for", "for what reason"],
    "how": ["how", "how does it work", "and how does that work", "how is it done", "explain how it works"],
    "when": ["when", "and when", "when should i use it", "when is it right", "when do we need that"],
    "cost": ["what does it cost", "how much is it", "and the price", "is it expensive", "how much do we pay for it"],
    "problem": ["what can go wrong", "and if it fails", "what if there is a problem", "it does not work",
                "what should i do when it goes wrong", "are there problems with it"],
}
STOP_WORDS = set("""a an the is are was were be been do does did of to in on at for with and or but not no it its this
that these those i you we they he she my our your their me us them what why how when who which where there so if than
then from by as can could should would may must will have has had about into up out too very more most much many one
please also only just all any each every own after before""".split())


ABBREVIATION = re.compile(r"\b(kv|gpu|api|ttft|gguf|moe|llm|http)(s?)\b")


def normalise(text):
    """The form in which questions are compared: lower case, letters and digits, single spaces."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def check_frozen(folder):
    """Stop if a held-out file is not the one whose hash stands in FROZEN.sha256 (format of sha256sum)."""
    with open(os.path.join(folder, "FROZEN.sha256"), encoding="utf-8") as f:
        entries = [line.split() for line in f if line.strip() and not line.startswith("#")]
    for want, name in entries:
        with open(os.path.join(folder, name), "rb") as f:
            if hashlib.sha256(f.read()).hexdigest() != want:
                raise SystemExit("questions/%s differs from its hash in FROZEN.sha256: held-out questions may not "
                                 "change" % name)


def read_banned(folder):
    """Normalised texts of all held-out questions."""
    check_frozen(folder)
    banned = set()
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path, encoding="utf-8") as f:
            banned.update(normalise(q["q"]) for q in json.load(f))
    return banned


def read_phrasings(path):
    """Sections of phrasings.txt: name -> list of lines."""
    sections, current = {}, None
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if re.fullmatch(r"\[[a-z_. 0-9]+\]", line):
                current = sections.setdefault(line[1:-1], [])
            elif line and not line.startswith("#"):
                current.append(line)
    return sections


def expand(text, rng):
    """Pick one alternative of every (a|b|c), innermost first."""
    while True:
        m = re.search(r"\(([^()]*)\)", text)
        if not m:
            return " ".join(text.split())
        text = text[:m.start()] + rng.choice(m.group(1).split("|")) + text[m.end():]


def typo(word, rng):
    """One slip of the fingers: two letters swapped, one lost, doubled or hit beside."""
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2:]
    if kind == 1:
        return word[:i] + word[i + 1:]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice(string.ascii_lowercase) + word[i + 1:]


class Augment:
    """Turns a plain lower-case question into what somebody might type."""

    def __init__(self):
        self.other = {}
        for group in SYNONYMS:
            for w in group:
                self.other.setdefault(w, []).extend(v for v in group if v != w)

    def _words(self, text, rng):
        out = []
        for w in text.split():
            if w in self.other and rng.random() < 0.12:
                w = rng.choice(self.other[w])
            elif w in STOP_WORDS and rng.random() < 0.04:
                continue
            elif len(w) > 4 and w.isalpha() and rng.random() < 0.012:
                w = typo(w, rng)
            out.append(w)
        if len(out) > 3 and rng.random() < 0.03:
            i = rng.randrange(len(out) - 1)
            out[i], out[i + 1] = out[i + 1], out[i]
        return " ".join(out) or text

    def _frame(self, text, rng):
        r = rng.random()
        if r < 0.08:
            return rng.choice(LEADS) + rng.choice([" ", ": ", ", ", " "]) + text
        if r < 0.18:
            return rng.choice(FILLER) + rng.choice([", ", " ", ": "]) + text
        if r < 0.27:
            return text + rng.choice([" ", ", ", " "]) + rng.choice(TAILS)
        return text

    def _ending(self, text, rng):
        if text[-1] in "?.!":
            return text
        first = text.split()[0]
        asks = first in ("what", "why", "how", "when", "who", "which", "where", "is", "are", "do", "does", "can",
                         "could", "should", "will", "what's", "may", "must", "would", "did")
        r = rng.random()
        if asks:
            return text + ("?" if r < 0.75 else "" if r < 0.95 else " ?" if r < 0.97 else "??")
        return text + ("." if r < 0.3 else "" if r < 0.6 else "?" if r < 0.85 else "!")

    def _case(self, text, rng):
        """Mostly as one learns it at school, else all small, seldom all capitals."""
        r = rng.random()
        if r < 0.62:
            text = re.sub(r"\bi\b", "I", text[0].upper() + text[1:])
            text = ABBREVIATION.sub(lambda m: m.group(1).upper() + m.group(2), text)
            return text.replace(" spillway", " Spillway") if rng.random() < 0.7 else text
        return text if r < 0.97 else text.upper()

    def __call__(self, text, rng):
        text = self._frame(self._words(text, rng), rng)
        return self._case(self._ending(text, rng), rng)


class Stories:
    """Short tales whose plot and name follow from (hero, adjective, thing), so that there is one right text to learn
    for every request; what a request leaves open follows from what it names."""

    def __init__(self, data, phrasings):
        self.d = data
        self.phrasings = {k[6:]: v for k, v in phrasings.items() if k.startswith("story ")}

    def text(self, hero, thing, adj, long):
        d = self.d
        if long:
            plot = d["long_plots"][(hero + thing + adj) % len(d["long_plots"])]
        else:
            plot = d["plots"][(hero * 5 + thing * 3 + adj) % len(d["plots"])]
        name = d["names"][(hero + 7 * thing) % len(d["names"])]
        return plot.format(hero=d["heroes"][hero], thing=d["things"][thing], adj=d["adjectives"][adj], name=name)

    def _choose(self, kind, rng):
        """Indices of hero, thing and adjective; those that the request does not name are functions of the rest."""
        hero, thing, adj = rng.randrange(12), rng.randrange(12), rng.randrange(12)
        if kind == "any":
            hero = rng.randrange(4)
        if kind == "thing":
            hero = (thing + adj) % 12
        if kind in ("hero", "any"):
            thing = (hero * 5 + 2) % 12
        if kind in ("hero", "any", "hero thing"):
            adj = (hero * 7 + thing) % 12
        return hero, thing, adj

    def sample(self, rng, long=None):
        kind = rng.choices(["full", "hero thing", "hero", "thing", "any"], [5, 2, 3, 2, 1.5])[0]
        hero, thing, adj = self._choose(kind, rng)
        long = rng.random() < 0.12 if long is None else long
        q = rng.choice(self.phrasings[kind])
        if long:
            q = self._ask_for_long(q, rng)
        q = expand(q, rng).format(hero=self.d["heroes"][hero], thing=self.d["things"][thing],
                                  adj=self.d["adjectives"][adj])
        return q, self.text(hero, thing, adj, long)

    @staticmethod
    def _ask_for_long(q, rng):
        q = re.sub(r"\((short|nice|one more|bedtime)[^()]*\|\)", "", q)
        word = rng.choice(["long", "long", "very long", "longer"])
        longer = re.sub(r"\bstory\b", word + " story", q, count=1)
        return longer if longer != q else q + ", a " + word + " one"


class Corpus:
    def __init__(self, here=HERE):
        with open(os.path.join(here, "intents.json"), encoding="utf-8") as f:
            data = json.load(f)
        self.sections = read_phrasings(os.path.join(here, "phrasings.txt"))
        self.banned = read_banned(os.path.join(here, "questions"))
        self.intents = {i["id"]: i for i in data["intents"]}
        self.names = {c: v["names"] + self.sections.get("alias " + c, []) for c, v in data["concepts"].items()}
        self.overview = {c: "%s.%s" % (c, v["overview"]) for c, v in data["concepts"].items()}
        self.aspects = [k[7:] for k in self.sections if k.startswith("aspect ")]
        self.lists = {k[5:]: v for k, v in self.sections.items() if k.startswith("list ")}
        self.stories = Stories(data["stories"], self.sections)
        self.augment = Augment()
        self._check()
        self.topics = [i for i, v in self.intents.items() if "concept" in v]
        self.smalltalk = [i for i in self.intents if i.startswith("smalltalk.")]

    def _check(self):
        """A section that belongs to nothing is a spelling mistake; an intent without phrasings is a forgotten one."""
        for name in self.sections:
            head = name.split(" ")[0]
            known = head in ("aspect", "list", "story") or name in self.intents
            if not known and not (head == "alias" and name[6:] in self.names):
                raise SystemExit("phrasings.txt: section [%s] belongs to no concept or intent" % name)
        for i in self.intents:
            if i not in self.sections:
                raise SystemExit("phrasings.txt: intent %s has no section" % i)

    def intent_ids(self):
        return list(self.intents)

    def _fill(self, line, concept, rng):
        for m in set(re.findall(r"<([a-z]+)>", line)):
            while "<%s>" % m in line:
                line = line.replace("<%s>" % m, rng.choice(self.lists[m]), 1)
        text = expand(line, rng)
        return text.replace("{x}", rng.choice(self.names[concept])) if concept else text

    def _fragment(self, intent, rng):
        """A question made of a run of words from the answer: ties all of the answer's vocabulary to the intent."""
        words = normalise(intent["answer"]).split()
        n = rng.randrange(5, 11)
        at = rng.randrange(max(1, len(words) - n))
        part = words[at:at + n]
        if sum(w not in STOP_WORDS for w in part) < 3:
            return self._fragment(intent, rng)
        while len(part) > 2 and part[-1] in STOP_WORDS:
            part.pop()
        while len(part) > 2 and part[0] in STOP_WORDS:
            part.pop(0)
        if rng.random() < 0.35:
            part = [w for w in part if w not in STOP_WORDS] or part
        lead = rng.choice(["", "", "", "what ", "is it true that ", "tell me about ", "why ", "how ", "who ", "when ",
                           "what about ", "explain ", "do you mean ", "which "])
        return lead + " ".join(part)

    def _fallback(self, rng):
        """A question about an aspect for which the concept has no text; answered with the nearest text."""
        concept = rng.choice(list(self.names))
        missing = [a for a in self.aspects if "%s.%s" % (concept, a) not in self.intents]
        if not missing:
            return self.question(rng)
        aspect = rng.choice(missing)
        line = rng.choice(self.sections["aspect " + aspect])
        answer = NEAREST.get("%s.%s" % (concept, aspect), self.overview[concept])
        return self._fill(line, concept, rng), answer

    def _topic(self, intent_id, rng):
        intent = self.intents[intent_id]
        r = rng.random()
        if r < 0.46:
            return self._fill(rng.choice(self.sections[intent_id]), intent["concept"], rng)
        if r < 0.89:
            return self._fill(rng.choice(self.sections["aspect " + intent["aspect"]]), intent["concept"], rng)
        return self._fragment(intent, rng)

    def question(self, rng):
        """One plain question and the id of the intent that answers it."""
        r = rng.random()
        if r < 0.76:
            i = rng.choice(self.topics)
            return self._topic(i, rng), i
        if r < 0.80:
            return self._fallback(rng)
        i = rng.choice(self.smalltalk) if r < 0.97 else "smalltalk.off_topic"
        return self._fill(rng.choice(self.sections[i]), None, rng), i

    def _allowed(self, make, rng):
        """Draw until the typed question is none of the held-out ones."""
        while True:
            q, answer = make()
            typed = self.augment(q, rng)
            if normalise(typed) not in self.banned and normalise(q) not in self.banned:
                return typed, answer

    def exchange(self, rng):
        typed, i = self._allowed(lambda: self.question(rng), rng)
        return typed, self.intents[i]["answer"], i

    def _follow_up(self, concept, rng):
        aspect = rng.choice([a for a in self.aspects if "%s.%s" % (concept, a) in self.intents])
        i = "%s.%s" % (concept, aspect)
        typed, i = self._allowed(lambda: (rng.choice(FOLLOW_UPS[aspect]), i), rng)
        return typed, self.intents[i]["answer"], i

    def conversation(self, rng):
        """[(role, text), ...]: mostly one question and one answer, sometimes a story or a chat of some turns."""
        turns = [("system", rng.choice(SYSTEMS))] if rng.random() < 0.05 else []
        r = rng.random()
        if r < 0.06:
            q, story = self._allowed(lambda: self.stories.sample(rng), rng)
            return turns + [("user", q), ("assistant", story)]
        n, concept = 1 if r < 0.93 else rng.choice([2, 2, 3, 4]), None
        for _ in range(n):
            if concept and rng.random() < 0.4:
                q, answer, i = self._follow_up(concept, rng)
            else:
                q, answer, i = self.exchange(rng)
            concept = self.intents[i].get("concept")
            turns += [("user", q), ("assistant", answer)]
        return turns


if __name__ == "__main__":
    c, generator = Corpus(), random.Random(0)
    for _ in range(40):
        for who, said in c.conversation(generator):
            print("%-10s %s" % (who, said))
        print()
