"""Mistakes that are planted in a copy of the scheduler, so that one sees the hammer of budgets find them. Those in the script
of Redis change its text within the program, byte by byte of the same length; those in C are compiled and linked in the
place of what is right."""

import collections
import glob
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What goes wrong; the file; its text as it is and as the mutant has it; the test that must find it (of the hammer, or
# test_dead of test_budgets_shared.py: answers that end early are booked with more than was said, which may hide it from the
# hammer), and a word of what it says then.
Mutant = collections.namedtuple("Mutant", "what file old new case says")

MUTANTS = [
    Mutant("reservations are not counted", "redis.lua",
           "b.reserved = add(b.reserved, granted)", "b.reserved = add(b.reserved, ZERO)", "used_up", "overspent"),
    Mutant("what the dead were granted is given back", "redis.lua",
           "give_back({b}, money, money)", "give_back({b}, money, ZERO)", "test_dead", "waste"),
    Mutant("an extension forgets what was granted before", "redis.lua",
           "money = add(h and h.money or ZERO, granted)", "money = granted", "used_up", "refused though it fits"),
    Mutant("the last of a budget is kept back", "redis.lua",
           "local least = add(fixed, mul(unit, least_units))", "local least=add(fixed,mul(unit,least_units+20))", "used_up",
           "refused though it fits"),
    Mutant("nobody may wait", "redis.lua",
           "may_wait and '1' or '0'", "'0'", "used_up", "refused though it fits"),
    Mutant("further slices cost nothing", "budgeted.c",
           "b->ask = (struct budget_ask){.unit = {b->prices.output.uusd_per_mtok},",
           "b->ask = (struct budget_ask){.unit = {0},", "used_up", "overspent"),
    Mutant("settlements aren't waited for", "budgeted.c",
           "if (b->grant.may_wait && mono_since", "if (!b->grant.may_wait && mono_since", "used_up", "refused though it fits"),
    Mutant("what is reserved counts as gone at the door", "budget.c",
           "if (left(l, s, (struct pusd){0}).v < least.v ||", "if (left(l, s, s->reserved).v < 2000000000 ||",
           "used_up", "refused though it fits"),
    Mutant("settlements are told once only", "budgets/redis.c",
           "    if (!reply) /* lost or late: again, as soon as there is somebody to ask */\n        return;",
           "    if (!reply) {\n        if (s->kind == STEP_SETTLE)\n            step_end(s);\n        return;\n    }",
           "hammer", "there is reserved"),
]


def source_of(name):
    found = [p for folder in ("policies", "scheduler") for p in glob.glob(f"{ROOT}/{folder}/**/{name}", recursive=True)]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def replaced(m, text):
    assert text.count(m.old) == 1, f"{m.what}: {m.file} has its text {text.count(m.old)} times: bring the row up to date"
    return text.replace(m.old, m.new)


def patch(m, build, folder):
    with open(os.path.join(build, "spillway"), "rb") as f:
        program = f.read()
    old, new = m.old.encode(), m.new.encode()
    assert program.count(old) == 1 and len(new) <= len(old), f"{m.what}: bring the row up to date"
    out = os.path.join(folder, "spillway")
    with open(out, "wb") as f:
        f.write(program.replace(old, new + b" " * (len(old) - len(new))))
    os.chmod(out, 0o755)


def compile_in(m, build, folder):
    path, source = os.path.join(folder, "mutant.c"), source_of(m.file)
    with open(source, encoding="utf-8") as f, open(path, "w", encoding="utf-8") as out:
        out.write(replaced(m, f.read()))
    commands = subprocess.run(["ninja", "-C", build, "-t", "commands", "spillway"], capture_output=True, text=True,
                              check=True).stdout.splitlines()
    compile_it = next(c for c in commands if c.endswith(f"-c {source}"))
    head, _, _ = compile_it.partition(" -MD ")
    subprocess.run(f"{head} -w -Wno-error -c {path} -o {path}.o", shell=True, check=True, cwd=build)
    link = commands[-1].replace("main.c.o ", f"main.c.o {path}.o ", 1)
    link = link.replace("-o spillway ", f"-o {os.path.join(folder, 'spillway')} ", 1)
    subprocess.run(link, shell=True, check=True, cwd=build)


def build(m, build_folder, folder):
    """The program with this mistake, as folder/spillway."""
    (patch if m.file.endswith(".lua") else compile_in)(m, build_folder, folder)
