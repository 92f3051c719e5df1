"""What the hammer of budgets needs to judge by itself: what the books said at every moment, and whether a refusal was right
by that."""

import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from redis_server import Client  # noqa: E402

# One answer: when it was asked for and when it was there (monotonic seconds), its status (0: broken off), the budget that
# refused it or ended it early ("": none), what was left there and the least that it needed, pico-dollars.
Told = collections.namedtuple("Told", "sent at status budget early left need")
# The books of a budget at one moment between `begin` and `end`.
Sample = collections.namedtuple("Sample", "begin end limit spent reserved")

REASON = re.compile(r"the budget '(\w+)' has ([0-9.]+) dollars left of [0-9.]+ for this \w+"
                    r"(?:, and the request needs at least ([0-9.]+))?")


def pico(dollars):
    return int(Decimal(dollars.rstrip(".")) * 10**12)


def told(sent, answer):
    text = answer.body.decode(errors="replace")
    reason = REASON.search(text) if answer.status == 429 or '"stopped"' in text else None
    budget, left, need = reason.groups(default="0.000000000001") if reason else ("", "0", "0")
    return Told(sent, time.monotonic(), answer.status, budget, answer.status == 200 and bool(budget), pico(left), pico(need))


class Watch:
    """Reads the books of some budgets every few milliseconds, from the Redis itself, whoever writes them. A process of its
    own: beside 64 clients in this one it would look too seldom."""

    def __init__(self, redis, hard):
        self.hard, self.samples = hard, {name: [] for name in hard}
        self.file = tempfile.TemporaryFile("w+")
        call = f"import budget_watch; budget_watch.watch({redis.port}, {list(hard)})"
        self.process = subprocess.Popen([sys.executable, "-c", call], stdout=self.file,
                                        cwd=os.path.dirname(os.path.abspath(__file__)))

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.terminate()
        self.process.wait()
        self.file.seek(0)
        for line in self.file:
            words = line.split()
            if len(words) == 6:  # the last one may be cut off
                begin, end, name = float(words[0]), float(words[1]), words[2]
                topped_up, spent, reserved = (int(w) for w in words[3:])
                self.samples[name].append(Sample(begin, end, self.hard[name] + topped_up, spent, reserved))
        self.file.close()

    def overspent(self):
        """The first moment at which more was spent and reserved than there is."""
        return next(((n, s) for n, list_ in self.samples.items() for s in list_ if s.spent + max(s.reserved, 0) > s.limit), None)


def watch(port, names):
    """Until SIGTERM: what they say, a line each time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            with Client(port) as c:
                while True:
                    for name in names:
                        begin = time.monotonic()
                        b = c.budget(name)
                        print(begin, time.monotonic(), name, b["topped_up"], b["spent"], b["reserved"])
                    time.sleep(0.001)
        except (OSError, ValueError):
            sys.stdout.flush()
            time.sleep(0.005)


class Judge:
    """Whether refusals were right. One is wrong if there was enough by its own words; if it was refused after a wait, and
    what it needed was there in every look at the books in the last `wait_s` of it; or if it was refused sooner, although
    the end of requests under way would have left enough. (A top-up is heard of by other schedulers within `wait_s`.)
    Answers that end early are judged by their words alone: room for one token comes and goes between two looks."""

    def __init__(self, watch, wait_s, need_max):
        self.watch, self.wait_s, self.need_max = watch, wait_s, need_max
        self.judged = collections.Counter()
        self.wrong = []

    def all(self, answers):
        first = {name: 0 for name in self.watch.samples}
        for t in sorted((t for t in answers if t.budget), key=lambda t: t.sent):
            samples = self.watch.samples[t.budget]
            while first[t.budget] < len(samples) and samples[first[t.budget]].end < t.sent - self.wait_s:
                first[t.budget] += 1
            if t.need > self.need_max or t.left >= t.need:
                self.wrong.append(f"by its own words, where at most {self.need_max} are needed: {t}")
            kind, known, wrong = self._one(t, samples, first[t.budget])
            self.judged[kind if known else kind + " (unseen)"] += 1
            if known and wrong:
                self.wrong.append(f"{kind}: {t}")
        return self.wrong

    def _one(self, t, samples, first):
        """(What kind of refusal it is; do we know enough; is it wrong)"""
        if t.early:
            return "ended early", True, False
        if t.at - t.sent < self.wait_s - 0.005:
            limit = samples[first - 1].limit if first else self.watch.hard[t.budget]
            after = next((s for s in samples[first:] if s.begin >= t.at), None)
            return "at once", bool(after), after and limit - after.spent >= t.need
        inside = []
        for s in samples[first:]:
            if s.end > t.at:
                break
            if s.begin >= t.at - self.wait_s:
                inside.append(s.limit - s.spent - s.reserved)
        in_time = t.at - t.sent < 1.5 * self.wait_s  # told later, the refusal is of before those looks, perhaps
        return "after a wait", in_time and len(inside) >= 10, inside and min(inside) >= t.need
