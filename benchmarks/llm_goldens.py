#!/usr/bin/env python3
"""Language models against what the reference implementation gave (reference.json beside the checkpoint): greedy answers and perplexity.

  llm_goldens.py --tokamak build/gpu/bin/tokamak --models ../shared/models/llm --text ../shared/models/data/heldout.txt.gz --device cuda

Greedy: every token of every answer is equal, except from where on the reference's two best tokens were closer than a precision tells apart
(smallest_top2_margin of the answer: below 1e-2 in fp32, 0.05 in 16 bits). Perplexity: within 0.05 % of the reference in fp32, 0.5 % in 16 bits,
2 % with 8-bit, 8 % with 4-bit weights. Rotary frequencies are rounded to bf16 as the reference had them.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile

FLAGS = {"fp32": [], "tf32": ["--tf32"], "fp16": ["--fp16"], "bf16": ["--bf16"], "int8": ["--int8"], "fp8": ["--fp8"], "int4": ["--int4"]}
MARGIN = {"fp32": 1e-2}
PERPLEXITY = {"fp32": 0.0005, "int8": 0.02, "fp8": 0.02, "int4": 0.08}


def call(options, command, model, precision, *rest):
    words = [options.tokamak, command, model, "--device", options.device, "--rope-dtype", "bf16", "--cache-dir", options.cache, *FLAGS[precision], *rest, "--json", "-"]
    out = subprocess.run(words, capture_output=True, text=True, timeout=options.timeout)
    if out.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {out.stderr.strip()[-300:]}")
    return json.loads(out.stdout)


def check(options, folder, precision):
    reference = json.load(open(os.path.join(folder, "reference.json")))
    row = {"model": os.path.basename(folder), "precision": precision}
    if options.text:
        held = reference["heldout"]
        found = call(options, "perplexity", folder, precision, "--text", options.text, "--documents", "--window", str(held["window"]), "--max-windows", str(held["windows"]))
        change = found["perplexity"] / held["perplexity"] - 1
        row |= {"perplexity": found["perplexity"], "reference": held["perplexity"], "change": change, "perplexity_ok": abs(change) <= PERPLEXITY.get(precision, 0.005)}
    equal, close, wrong = 0, [], []
    if precision in ("fp32", "tf32", "fp16", "bf16"):
        # The first answer builds and keeps the engine if nothing has yet.
        def answer(g):
            return call(options, "generate", folder, precision, "-p", g["prompt"], "--max-tokens", str(len(g["new_ids"])))["token_ids"]

        goldens = reference["greedy"]
        answers = [answer(goldens[0])]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            answers += pool.map(answer, goldens[1:])
        for g, got in zip(goldens, answers):
            if got == g["new_ids"]:
                equal += 1
            else:
                (close if g["smallest_top2_margin"] < MARGIN.get(precision, 0.05) else wrong).append(g["prompt"])
        row |= {"answers": len(goldens), "equal": equal, "close": close, "wrong": wrong}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokamak", default="build/release/bin/tokamak")
    parser.add_argument("--models", required=True, help="a folder of checkpoint folders")
    parser.add_argument("--text", help="what the perplexity is of (default: none)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one call")
    parser.add_argument("--json")
    options = parser.parse_args()
    folders = [os.path.join(options.models, name) for name in sorted(os.listdir(options.models))]
    folders = [f for f in folders if os.path.exists(os.path.join(f, "reference.json"))]
    rows, failed = [], not folders
    print("| model | precision | greedy answers equal | differ where two tokens are close | wrong | perplexity | reference | change |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as options.cache:
        for folder in folders:
            for precision in options.precisions.split(","):
                try:
                    row = check(options, folder, precision)
                except (RuntimeError, subprocess.TimeoutExpired) as error:  # the other rows are still wanted
                    row = {"model": os.path.basename(folder), "precision": precision, "error": str(error)}
                    print(error, file=sys.stderr)
                rows.append(row)
                failed |= "error" in row or bool(row.get("wrong")) or not row.get("perplexity_ok", True)
                greedy = [f"{row['equal']} of {row['answers']}", str(len(row["close"])), str(len(row["wrong"]))] if "equal" in row else ["", "", ""]
                text = [f"{row['perplexity']:.4f}", f"{row['reference']:.4f}", f"{100 * row['change']:+.3f} %"] if "perplexity" in row else ["error" if "error" in row else "", "", ""]
                print("| " + " | ".join([row["model"], precision] + greedy + text) + " |", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
