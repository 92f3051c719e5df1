#!/usr/bin/env python3
"""Ask the held-out questions and judge the answers.

    python eval.py questions/test.json --engine ../../build/spillway-engine --model ../../models/spillway-tiny.gguf
    python eval.py questions/dev.json --torch run/last.pt         # while the engine is not at hand
    ... --write EVAL.md                                           # also write the report

An answer is right if every group of its accepted keywords has one alternative that occurs in the lower-cased answer.
Decoding is greedy.  With --engine nothing but the standard library is needed.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys

MAX_TOKENS = 80
STORY_TOKENS = 160


def limit_for(question):
    return STORY_TOKENS if question["intent"].startswith("story") else MAX_TOKENS


def engine_answers(args, questions):
    """One run of the engine per question; the answer is what it prints on stdout."""
    for q in questions:
        command = [args.engine, "generate", "--model", args.model, "--chat", q["q"], "--temp", "0",
                   "-n", str(limit_for(q))]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
        if done.returncode != 0:
            sys.exit("%s failed: %s" % (" ".join(command), done.stderr.strip()))
        yield done.stdout.strip()


def torch_answers(checkpoint, questions):
    import bpe
    from data import prompt_ids
    from export_gguf import load_checkpoint
    from model import generate
    model, tok = load_checkpoint(checkpoint)
    prompts = [prompt_ids(tok, q["q"]) for q in questions]
    for ids in generate(model, prompts, STORY_TOKENS, bpe.EOS):
        yield tok.decode(ids).strip()


def is_right(question, answer):
    text = " ".join(answer.lower().split())
    return all(any(word.lower() in text for word in group) for group in question["accept"])


def file_hash(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def report(args, name, results):
    """Markdown: the score, how it was got, and every question with its answer."""
    right = sum(ok for _, _, ok in results)
    lines = ["# Evaluation of spillway-tiny", "",
             "**%d of %d** questions of `questions/%s` answered right." % (right, len(results), name), ""]
    if args.engine:
        lines += ["Greedy decoding by the engine, from the Q8_0 file `models/%s` (sha256 `%s`):"
                  % (os.path.basename(args.model), file_hash(args.model)), "",
                  "```", "spillway-engine generate --model models/%s --chat QUESTION --temp 0 -n %d"
                  % (os.path.basename(args.model), MAX_TOKENS), "```", "",
                  "(`-n %d` for stories.) " % STORY_TOKENS]
    else:
        lines += ["Greedy decoding of the unquantised checkpoint by PyTorch (`eval.py --torch`). "]
    lines[-1] += ("The questions were written without sight of the phrasings, frozen by hash "
                  "(`questions/FROZEN.sha256`) before training, and banned from it.")
    lines += ["", "An answer is right if each group of accepted keywords (separated by `;`) has one alternative "
              "(separated by `/`) that occurs in it, upper and lower case alike.", "",
              "| # | | question | answer | accepted |", "|---|---|---|---|---|"]
    for i, (q, answer, ok) in enumerate(results, 1):
        accepted = "; ".join(" / ".join(group) for group in q["accept"])
        cells = [str(i), "right" if ok else "**wrong**", q["q"], answer, accepted]
        lines.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("questions")
    ap.add_argument("--engine")
    ap.add_argument("--model", default="../../models/spillway-tiny.gguf")
    ap.add_argument("--torch", metavar="CHECKPOINT")
    ap.add_argument("--write", metavar="FILE")
    ap.add_argument("--blind", action="store_true", help="print the score only")
    ap.add_argument("--min", type=int, default=0, help="exit with 1 below this many right answers")
    args = ap.parse_args()
    if bool(args.engine) == bool(args.torch):
        ap.error("give --engine or --torch")
    with open(args.questions, encoding="utf-8") as f:
        questions = json.load(f)
    answers = engine_answers(args, questions) if args.engine else torch_answers(args.torch, questions)
    results = [(q, a, is_right(q, a)) for q, a in zip(questions, answers)]
    right = sum(ok for _, _, ok in results)
    if not args.blind:
        for q, answer, ok in results:
            if not ok:
                print("WRONG %-26s %s\n      %s" % (q["intent"], q["q"], answer))
    print("%d of %d right (%.0f%%)" % (right, len(results), 100 * right / len(results)))
    if args.write:
        with open(args.write, "w", encoding="utf-8") as f:
            f.write(report(args, os.path.basename(args.questions), results))
    return 1 if right < args.min else 0


if __name__ == "__main__":
    sys.exit(main())
