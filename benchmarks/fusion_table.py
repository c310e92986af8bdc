#!/usr/bin/env python3
"""What the passes make of each exported model: nodes before, kernels after, and the patterns recognised.

Reads the optimized graph that `tokamak inspect --ir` prints and counts operators; a GELU or SiLU that went into a matmul's epilogue or a fused region is counted by its name
in the expression. Writes benchmarks/results/fusions.md.
"""
import argparse
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOKAMAK = os.path.join(ROOT, "build", "release", "bin", "tokamak")
COLUMNS = ["attention", "layer_norm", "rms_norm", "gelu", "silu", "rope", "softmax", "fused", "matmul", "conv", "transpose"]


def count(text):
    ops = re.findall(r"^ *(?:%[^=]*) = ([a-z0-9_]+)\(", text, re.MULTILINE)
    exprs = " ".join(re.findall(r'(?:epilogue|expr)="([^"]*)"', text))
    found = {name: ops.count(name) for name in COLUMNS}
    found["layer_norm"] += ops.count("add_layer_norm")
    found["rms_norm"] += ops.count("add_rms_norm")
    found["gelu"] += ops.count("gelu_tanh") + len(re.findall(r"= gelu(?:_tanh)?\(", exprs))
    found["silu"] += len(re.findall(r"= silu\(", exprs))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="model folders; default: all beside the checkout")
    options = parser.parse_args()
    base = os.path.join(ROOT, "..", "shared", "models", "onnx")
    folders = options.models or sorted(os.path.join(base, name) for name in os.listdir(base))
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = ["# Fusions", "", f"Commit {commit}, `python3 benchmarks/fusion_table.py`: nodes as imported, kernels that run, and operators in the optimized graph (norms with their `add_` forms; GELU",
             "and SiLU wherever they ended: in an epilogue, a region, or alone).", "", "| model | nodes before | kernels after | " + " | ".join(COLUMNS) + " |",
             "| --- |" + " --: |" * (len(COLUMNS) + 2)]
    for folder in folders:
        path = os.path.join(folder, "model.onnx")
        facts = json.loads(subprocess.run([TOKAMAK, "inspect", path, "--json", "-"], capture_output=True, text=True, check=True).stdout)
        text = subprocess.run([TOKAMAK, "inspect", path, "--ir"], capture_output=True, text=True, check=True).stdout
        found = count(text)
        lines.append(f"| {os.path.basename(folder)} | {facts['nodes']} | {facts['kernels']} | " + " | ".join(str(found[c]) for c in COLUMNS) + " |")
    with open(os.path.join(ROOT, "benchmarks", "results", "fusions.md"), "w") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
