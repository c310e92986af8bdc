#!/usr/bin/env python3
"""Tokens per second of Tokamak against llama.cpp on this CPU: a 1.1B Llama shape (TinyLlama) with random weights.

Both run in turn, in short slices within one run, on the same number of threads: decoding at batch 1, a prompt of 512 tokens, and eight users at
once (llama-batched-bench -npl 8 against a batch of 8). A row's ratio is the median over rounds of ours / theirs, so a drift of the machine
hits both. llama.cpp's F16 and BF16 files are both measured and the faster one counts. Make the files with

    python3 benchmarks/make_random_gguf.py FOLDER/f16.gguf && python3 benchmarks/make_random_gguf.py FOLDER/bf16.gguf --type bf16
    llama-quantize FOLDER/f16.gguf FOLDER/q8_0.gguf Q8_0 && llama-quantize FOLDER/f16.gguf FOLDER/q4_0.gguf Q4_0

(as its users do: not --pure, so the Q4_0 file has its last matrix in Q6_K; ours has it in int8) and build llama.cpp in Release mode with GGML_NATIVE.
"""
import argparse
import ctypes
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRECISIONS = {"bf16": ["f16", "bf16"], "int8": ["q8_0"], "int4": ["q4_0"]}
SHAPE = "tinyllama-1.1b"


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{os.path.basename(command[0])} ended with {result.returncode}: " + ((result.stderr or result.stdout).strip().splitlines() or [""])[-1])
    return result.stdout, result.stderr


class Theirs:
    def __init__(self, options):
        self.options = options

    def gguf(self, kind):
        return os.path.join(self.options.gguf, kind + ".gguf")

    def bench(self, kind, threads, prompt, new):
        text, _ = run([os.path.join(self.options.llamacpp, "llama-bench"), "-m", self.gguf(kind), "-t", str(threads), "-p", str(prompt), "-n", str(new), "-r", "1", "-o", "json"])
        return json.loads(text)[0]["avg_ts"]

    def decode(self, kind, threads):
        return self.bench(kind, threads, 0, self.options.new_tokens)

    def prefill(self, kind, threads):
        return self.bench(kind, threads, 512, 0)

    def users(self, kind, threads):
        text, errors = run([os.path.join(self.options.llamacpp, "llama-batched-bench"), "-m", self.gguf(kind), "-t", str(threads), "-tb", str(threads), "-c", "4096", "-b", "2048", "-ub", "512", "-npp", "32",
                            "-ntg", str(self.options.new_tokens), "-npl", "8", "--output-format", "jsonl"])
        line = next(l for l in (text + errors).splitlines() if l.startswith("{"))
        return json.loads(line)["speed_tg"]

    def version(self):
        text, errors = run([os.path.join(self.options.llamacpp, "llama-bench"), "--version"])
        found = re.search(r"version: (.*)", text + errors)
        return found.group(1) if found else "unknown"

    def system_info(self):
        try:
            library = ctypes.CDLL(os.path.join(self.options.llamacpp, "libllama.so"))
        except OSError:
            return "unknown (no libllama.so beside the programs)"
        library.llama_print_system_info.restype = ctypes.c_char_p
        return library.llama_print_system_info().decode().strip(" |")


class Ours:
    def __init__(self, options):
        self.options = options

    def bench(self, precision, threads, batch, prompt, new, extra=()):
        text, _ = run([self.options.tokamak, "bench", "--synthetic", SHAPE, "--precision", precision, "--threads", str(threads), "--batch", str(batch), "--prompt-tokens", str(prompt), "--new-tokens", str(new),
                       "--cache-dir", self.options.cache, "--json", "-", *extra])
        return json.loads(text)

    def decode(self, precision, threads):
        result = self.bench(precision, threads, 1, 8, self.options.new_tokens + 1, ["--bandwidth"])
        return result["runs"][0]["output_tokens_per_s"], result

    def prefill(self, precision, threads):
        return self.bench(precision, threads, 1, 512, 1)["runs"][0]["prefill_tokens_per_s"], None

    def users(self, precision, threads):
        return self.bench(precision, threads, 8, 32, self.options.new_tokens + 1)["runs"][0]["output_tokens_per_s"], None


WHAT = {"decode": "decode, 1 user", "prefill": "prompt of 512 tokens", "users": "decode, 8 users"}
WANTED = {"decode": 1.15, "prefill": 1.5, "users": 3.0}


def compare(what, precision, threads, ours, theirs, rounds):
    rates, peers, shares, bandwidths = [], {kind: [] for kind in PRECISIONS[precision]}, [], []
    for index in range(rounds):
        def measure_ours():
            rate, result = getattr(ours, what)(precision, threads)
            rates.append(rate)
            if result:
                shares.append(result["runs"][0]["bandwidth_share"])
                bandwidths.append(result["read_bandwidth_bytes_per_s"])

        def measure_theirs():
            for kind in peers:
                peers[kind].append(getattr(theirs, what)(kind, threads))

        for step in (measure_ours, measure_theirs) if index % 2 == 0 else (measure_theirs, measure_ours):
            step()
    best = max(peers, key=lambda kind: statistics.median(peers[kind]))
    row = {"what": what, "precision": precision, "threads": threads, "ours": statistics.median(rates), "theirs": statistics.median(peers[best]), "peer": best,
           "ratio": statistics.median(a / b for a, b in zip(rates, peers[best])), "all_ours": rates, "all_theirs": peers}
    if shares:
        row["bandwidth_share"] = statistics.median(shares)
        row["read_bandwidth_bytes_per_s"] = statistics.median(bandwidths)
    return row


def cpu_name():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())


def write_results(rows, facts, options):
    folder = os.path.join(ROOT, "benchmarks", "results")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, options.output + ".json"), "w") as file:
        json.dump({**facts, "rows": rows}, file, indent=1)
        file.write("\n")
    lines = ["# CPU: Tokamak against llama.cpp, a 1.1B Llama shape with random weights", "",
             f"{facts['device']}, {facts['cores']} cores, Linux {facts['kernel']}; commit {facts['commit']}, {facts['date']}; llama.cpp {facts['llamacpp']} ({facts['llamacpp_from']}).", "",
             f"llama.cpp's build: {facts['system_info'].replace(' | ', ', ')}.", "",
             f"`{facts['command']}`: {options.rounds} alternating rounds, {options.new_tokens} new tokens each; tokens per second are medians, ratio = median of ours / theirs (above 1: Tokamak is faster). "
             "Bandwidth: bytes of weights read a second over the read bandwidth measured in the same process (several streams, prefetch).", "",
             "| | threads | precision | Tokamak tokens/s | llama.cpp tokens/s | its file | ratio | aim | of bandwidth |", "| --- | --: | --- | --: | --: | --- | --: | --: | --: |"]
    for r in rows:
        if "failure" in r:
            lines.append(f"| {WHAT[r['what']]} | {r['threads']} | {r['precision']} | {r['failure']} | | | | | |")
            continue
        share = f"{r['bandwidth_share'] * 100:.0f} % of {r['read_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s" if "bandwidth_share" in r else ""
        lines.append(f"| {WHAT[r['what']]} | {r['threads']} | {r['precision']} | {r['ours']:.1f} | {r['theirs']:.1f} | {r['peer'].upper()} | {r['ratio']:.2f} | {WANTED[r['what']]} | {share} |")
    with open(os.path.join(folder, options.output + ".md"), "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines[8:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llamacpp", required=True, help="folder with llama-bench and llama-batched-bench")
    parser.add_argument("--gguf", required=True, help="folder with f16.gguf, bf16.gguf, q8_0.gguf and q4_0.gguf")
    parser.add_argument("--llamacpp-from", default="source of the llama-cpp-python sdist", help="where the build comes from, for the table")
    parser.add_argument("--tokamak", default=os.path.join(ROOT, "build", "release", "bin", "tokamak"))
    parser.add_argument("--cache", default=os.path.join(ROOT, "build", "bench", "engines"), help="folder of built engines")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--precisions", default="bf16,int8,int4")
    parser.add_argument("--what", default="decode,prefill,users")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--output", default="cpu-vs-llamacpp", help="name of the files in benchmarks/results")
    options = parser.parse_args()
    os.makedirs(options.cache, exist_ok=True)
    ours, theirs = Ours(options), Theirs(options)
    rows = []
    for what in options.what.split(","):
        for threads in [int(t) for t in options.threads.split(",")]:
            for precision in options.precisions.split(","):
                try:
                    ours.bench(precision, threads, 1, 8, 2)  # builds the engine when it is not there
                    row = compare(what, precision, threads, ours, theirs, options.rounds)
                except (RuntimeError, KeyError, IndexError, StopIteration) as problem:
                    row = {"what": what, "precision": precision, "threads": threads, "failure": str(problem)[:200]}
                rows.append(row)
                print(f"{WHAT[what]:22} {threads} threads  {precision:5} " + (row["failure"] if "failure" in row else f"{row['ours']:9.2f} / {row['theirs']:9.2f} = {row['ratio']:.2f}" + (f"  {row['bandwidth_share']:.2f} of bandwidth" if "bandwidth_share" in row else "")), file=sys.stderr, flush=True)
    git = lambda *words: subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    # Where things lie on this machine is nobody else's business.
    words = [w for i, w in enumerate(sys.argv[1:]) if not {w, sys.argv[i]} & {"--llamacpp", "--gguf", "--tokamak", "--cache", "--llamacpp-from"}]
    facts = {"device": cpu_name(), "cores": os.cpu_count(), "kernel": platform.release(), "commit": git("rev-parse", "--short", "HEAD") + (" (changed)" if git("status", "--porcelain", "--untracked-files=no") else ""),
             "date": datetime.date.today().isoformat(), "llamacpp": theirs.version(), "llamacpp_from": options.llamacpp_from, "system_info": theirs.system_info(),
             "command": ("./dev bench llm " + " ".join(words)).strip()}
    write_results(rows, facts, options)
    return 1 if any("failure" in r for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
