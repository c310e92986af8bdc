#!/usr/bin/env python3
"""Latency of Tokamak engines against ONNX Runtime on this CPU, float32.

Both run in turn, in short slices within one run, on the same inputs and the same number of threads; a row's ratio is the median over rounds of
(our median latency / theirs), so a drift of the machine hits both. Outputs are compared before anything is timed.
ONNX Runtime: all optimizations, sequential execution, inputs and outputs bound beforehand.
"""
import argparse
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime as ort

import make_random_weights

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build", "bench")
TOKAMAK = os.path.join(ROOT, "build", "release", "bin", "tokamak")


def find_model(entry, options):
    """Path of the entry's ONNX file, made or unpacked when need be; None when its source is absent."""
    kind, name = entry["from"].split("/", 1)
    if kind == "models":
        path = os.path.join(options.models, name, "model.onnx")
        return path if os.path.exists(path) else None
    if kind == "examples":
        return os.path.join(ROOT, "examples", "models", name, "model.onnx")
    source = os.path.join(options.light, name, "model.onnx")
    if not os.path.exists(source):
        return None
    target = os.path.join(WORK, name + ".random.onnx")
    if not os.path.exists(target):
        make_random_weights.convert(source, target)
    return target


def unpack_light(options):
    archive = os.path.join(os.path.dirname(options.models.rstrip("/")), "..", "onnx-conformance", "open.tar.zst")
    if options.light is None:
        options.light = os.path.join(WORK, "cases", "light")
        if not os.path.isdir(options.light) and os.path.exists(archive):
            os.makedirs(os.path.join(WORK, "cases"), exist_ok=True)
            subprocess.run(["tar", "-C", os.path.join(WORK, "cases"), "-xf", archive, "light"], check=False)


def make_inputs(session, shapes, seed=1):
    rng = np.random.default_rng(seed)
    inputs = {}
    for item in session.get_inputs():
        shape = shapes.get(item.name, shapes.get("*"))
        if "float" in item.type:
            inputs[item.name] = rng.standard_normal(shape).astype(np.float32)
        elif "mask" in item.name:
            inputs[item.name] = np.ones(shape, np.int64)
        else:
            inputs[item.name] = rng.integers(1, 50, shape).astype(np.int64 if "int64" in item.type else np.int32)
    return inputs


class Peer:
    """An ONNX Runtime session with everything bound."""

    def __init__(self, path, threads, shapes):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = make_inputs(self.session, shapes)
        self.outputs = self.session.run(None, self.inputs)
        self.binding = self.session.io_binding()
        self.values = []
        for name, array in self.inputs.items():
            self.values.append(ort.OrtValue.ortvalue_from_numpy(array))
            self.binding.bind_ortvalue_input(name, self.values[-1])
        for item, array in zip(self.session.get_outputs(), self.outputs):
            self.values.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
            self.binding.bind_ortvalue_output(item.name, self.values[-1])

    def measure(self, warmup_s, slice_s):
        end = time.perf_counter() + warmup_s
        while time.perf_counter() < end:
            self.session.run_with_iobinding(self.binding)
        times, end = [], time.perf_counter() + slice_s
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            self.session.run_with_iobinding(self.binding)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError((result.stderr or result.stdout).strip().splitlines()[-1])
    return result.stdout


class Ours:
    def __init__(self, path, name, threads, shapes, peer, options):
        os.makedirs(WORK, exist_ok=True)
        self.base = os.path.join(WORK, "".join(c if c.isalnum() else "_" for c in name) + f"_t{threads}")
        self.engine, self.threads = self.base + ".engine", threads
        self.shapes = ",".join(f"{i.name}:{'x'.join(map(str, shapes.get(i.name, shapes.get('*'))))}" for i in peer.session.get_inputs())
        profiles = [word for shape in self.shapes.split(",") for word in ("--profile", shape)]
        fixed = all(isinstance(d, int) for i in peer.session.get_inputs() for d in i.shape)
        run([TOKAMAK, "build", path, "-o", self.engine, "--threads", str(threads), "--opt-level", str(options.opt_level), "--timing-cache",
             os.path.join(WORK, "timing.cache")] + ([] if fixed else profiles))

    def largest_error(self, peer):
        files = []
        for i, (name, array) in enumerate(peer.inputs.items()):
            path = f"{self.base}.in{i}.bin"
            array.tofile(path)
            files.append(f"{name}:{path}")
        run([TOKAMAK, "trtexec", f"--loadEngine={self.engine}", f"--shapes={self.shapes}", f"--loadInputs={','.join(files)}", f"--exportOutput={self.base}.out.json",
             "--iterations=1", "--duration=0", "--warmUp=0", f"--threads={self.threads}"])
        with open(self.base + ".out.json") as file:
            ours = {o["name"]: np.array(o["values"], np.float64) for o in json.load(file)}
        worst = 0.0
        for item, want in zip(peer.session.get_outputs(), peer.outputs):
            want = want.astype(np.float64).ravel()
            scale = max(1e-6, float(np.max(np.abs(want), initial=0)))
            got = ours[item.name]
            if got.shape != want.shape or not np.all(np.isfinite(got) | ~np.isfinite(want)):
                return math.inf
            worst = max(worst, float(np.max(np.abs(got - want), initial=0)) / scale)
        return worst

    def measure(self, warmup_s, slice_s):
        text = run([TOKAMAK, "bench", self.engine, "--shapes", self.shapes, "--threads", str(self.threads), "--warmup", str(warmup_s * 1e3), "--duration", str(slice_s),
                    "--json", "-"])
        return json.loads(text)


def compare(entry, path, batch, threads, options):
    shapes = {}
    for item in entry["shapes"].split(","):
        name, shape = item.rsplit(":", 1)
        shapes[name] = [int(d) for d in shape.replace("$B", str(batch)).split("x")]
    name = entry["name"] + (f" b{batch}" if "$B" in entry["shapes"] else "")
    peer = Peer(path, threads, shapes)
    ours = Ours(path, name, threads, shapes, peer, options)
    error = ours.largest_error(peer)
    row = {"name": name, "threads": threads, "max_error": error}
    if error > options.tolerance:
        row["failure"] = f"outputs differ by {error:.1e} of the largest value"
        return row
    ours_ms, theirs_ms, last = [], [], None
    for round_index in range(options.rounds):
        for who in ("ours", "theirs") if round_index % 2 == 0 else ("theirs", "ours"):
            if who == "ours":
                last = ours.measure(options.warmup, options.slice)
                ours_ms.append(last["latency_ms"]["median"])
            else:
                theirs_ms.append(peer.measure(options.warmup, options.slice))
    row.update(ours_ms=statistics.median(ours_ms), theirs_ms=statistics.median(theirs_ms), ratio=statistics.median(a / b for a, b in zip(ours_ms, theirs_ms)),
               nodes=last["nodes"], kernels=last["kernels"], load_ms=last["load_ms"], peak_memory_bytes=last["peak_memory_bytes"])
    return row


def cpu_name():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())


def write_results(rows, options, name):
    done = [r for r in rows if "ratio" in r]
    mean = math.exp(statistics.mean(math.log(r["ratio"]) for r in done)) if done else float("nan")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True).stdout.strip()
    # Where the models lie on this machine is nobody else's business.
    words = [w for i, w in enumerate(sys.argv[1:]) if w not in ("--models", "--light") and sys.argv[i] not in ("--models", "--light")]
    command = "./dev bench " + " ".join(words)
    facts = {"device": cpu_name(), "cores": os.cpu_count(), "kernel": platform.release(), "commit": commit + (" (changed)" if dirty else ""),
             "date": datetime.date.today().isoformat(), "onnxruntime": ort.__version__, "command": command.strip(), "geometric_mean_ratio": mean}
    folder = os.path.join(ROOT, "benchmarks", "results")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name + ".json"), "w") as file:
        json.dump({**facts, "rows": rows}, file, indent=1)
        file.write("\n")
    lines = ["# CPU: Tokamak against ONNX Runtime, float32", "",
             f"{facts['device']}, {facts['cores']} cores, Linux {facts['kernel']}; commit {facts['commit']}, {facts['date']}; onnxruntime {ort.__version__}.", "",
             f"`{facts['command']}`: {options.rounds} alternating rounds of {options.slice} s each; ratio = median of ours / theirs (below 1: Tokamak is faster); "
             "error = largest difference of the outputs over the largest value.", "",
             f"**Geometric mean of {len(done)} rows: {mean:.3f}**; over 1.0: {sum(r['ratio'] > 1 for r in done)}.", "",
             "| model | threads | Tokamak ms | ONNX Runtime ms | ratio | nodes before | kernels after | load ms | error |", "| --- | --: | --: | --: | --: | --: | --: | --: | --: |"]
    for r in rows:
        if "ratio" in r:
            lines.append(f"| {r['name']} | {r['threads']} | {r['ours_ms']:.3f} | {r['theirs_ms']:.3f} | {r['ratio']:.2f} | {r['nodes']} | {r['kernels']} | {r['load_ms']:.1f} | {r['max_error']:.0e} |")
        else:
            lines.append(f"| {r['name']} | {r['threads']} | {r['failure']} | | | | | | |")
    with open(os.path.join(folder, name + ".md"), "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines[6:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=os.path.join(ROOT, "..", "shared", "models", "onnx"), help="folder of exported models")
    parser.add_argument("--light", help="folder of the ONNX suite's light models (default: unpacked from beside --models)")
    parser.add_argument("--only", default="", help="models whose name contains one of these, comma-separated")
    parser.add_argument("--threads", default="1,2", help="thread counts")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice", type=float, default=0.7, help="seconds of timing a round, each")
    parser.add_argument("--warmup", type=float, default=0.2, help="seconds before each slice")
    parser.add_argument("--opt-level", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--output", default="cpu-vs-onnxruntime", help="name of the files in benchmarks/results")
    options = parser.parse_args()
    os.makedirs(WORK, exist_ok=True)
    unpack_light(options)
    with open(os.path.join(ROOT, "benchmarks", "models.json")) as file:
        entries = json.load(file)["models"]
    wanted = [w for w in options.only.split(",") if w]
    rows = []
    for entry in entries:
        if wanted and not any(w in entry["name"] for w in wanted):
            continue
        path = find_model(entry, options)
        for batch in entry.get("batches", [1]):
            if batch not in [int(b) for b in options.batches.split(",")]:
                continue
            for threads in [int(t) for t in options.threads.split(",")]:
                try:
                    row = compare(entry, path, batch, threads, options) if path else {"name": entry["name"], "threads": threads, "failure": "model file is absent"}
                except (RuntimeError, KeyError) as problem:
                    row = {"name": entry["name"], "threads": threads, "failure": str(problem)[:200]}
                rows.append(row)
                print(f"{row['name']:32} {threads} threads  " + (f"{row['ours_ms']:9.3f} / {row['theirs_ms']:9.3f} ms = {row['ratio']:.3f}" if "ratio" in row else row["failure"]), file=sys.stderr, flush=True)
    write_results(rows, options, options.output)
    return 0 if all("ratio" in r or r["failure"] == "model file is absent" for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
