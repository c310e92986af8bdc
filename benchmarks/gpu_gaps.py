#!/usr/bin/env python3
"""How much of a decode step no kernel runs: records every kernel of a program with CUPTI and sets the union of their times against the span.

  gpu_gaps.py [OPTIONS] -- build/gpu/bin/tokamak bench --synthetic llama-2-7b --device cuda --bf16 --batch 1 --prompt-tokens 128 --new-tokens 64

A step begins where the CUDA graph that is launched most often begins. What counts is the longest row of its launches that follow each other
without a pause of three steps. Idle time is told apart by where it lies: inside a launch of the graph, or between two of them, where the host
has its turn. Recording kernels inside graphs lengthens what lies between them; --level graphs records whole launches at nearly no cost and so
gives the time between them, and the step, as they are.
"""
import argparse
import bisect
import collections
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile

Record = collections.namedtuple("Record", "start end correlation graph node stream name")


def find_cupti():
    """The first libcupti.so.13: of the variable, of the toolkit, of PyTorch's packages."""
    patterns = [os.environ.get("TOKAMAK_TRACE_CUPTI", ""), "/usr/local/cuda*/**/libcupti.so.13"]
    for folder in sys.path + glob.glob("/opt/*/.venv/lib/python3*/site-packages"):
        patterns += [folder + "/nvidia/cu13/lib/libcupti.so.13", folder + "/nvidia/cuda_cupti/lib/libcupti.so.13"]
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True)) if pattern else []:
            return os.path.realpath(path)
    raise SystemExit("error: there is no libcupti.so.13; --cupti names it")


def record(command, library, cupti, level, path):
    environment = dict(os.environ, CUDA_INJECTION64_PATH=os.path.abspath(library), TOKAMAK_TRACE_FILE=path, TOKAMAK_TRACE_LEVEL=level)
    environment["TOKAMAK_TRACE_CUPTI"] = cupti or find_cupti()
    status = subprocess.run(command, env=environment, stdout=sys.stderr).returncode
    if status != 0:
        raise SystemExit(f"error: exit status {status} of: {' '.join(command)}")


def read(path):
    records, complete = [], False
    with open(path) as file:
        for line in file:
            if line.startswith("# lost "):
                complete = True
                if int(line.split()[2]) > 0:
                    raise SystemExit(f"error: CUPTI lost {line.split()[2]} records")
                continue
            *numbers, name = line.rstrip("\n").split("\t", 6)
            records.append(Record(*map(int, numbers), name))
    if not complete:
        raise SystemExit("error: the records end too early: the program did not end by itself")
    return sorted(records)


def launches_of_steps(records):
    """(start, end) of each launch in the longest uninterrupted row of launches of the most launched graph."""
    spans = {}
    for r in records:
        if r.graph != 0:
            key = (r.graph, r.correlation)
            start, end = spans.get(key, (r.start, r.end))
            spans[key] = (min(start, r.start), max(end, r.end))
    counts = collections.Counter(graph for graph, _ in spans)
    if not counts or counts.most_common(1)[0][1] < 4:
        raise SystemExit("error: no CUDA graph was launched four times or more: there are no steps to look at")
    graph = counts.most_common(1)[0][0]
    launches = sorted(span for key, span in spans.items() if key[0] == graph)
    period = statistics.median(b[0] - a[0] for a, b in zip(launches, launches[1:]))
    rows, row = [], [launches[0]]
    for launch in launches[1:]:
        if launch[0] - row[-1][0] > 3 * period:
            rows.append(row)
            row = []
        row.append(launch)
    return max(rows + [row], key=len)


def analyse(records):
    launches = launches_of_steps(records)
    if len(launches) > 8:
        launches = launches[2:]  # the first ones follow the prompt
    begin, end, steps = launches[0][0], launches[-1][0], len(launches) - 1
    starts, ends = [l[0] for l in launches], [l[1] for l in launches]
    busy = inside = between = copies = 0
    kernels, gaps = {}, []
    at, before = begin, "(begin)"
    behind = ("", "")  # the last two kernels to end
    advances = {}  # of kernels behind those: how far they move the latest end, and how long before it they start
    for r in records:
        if r.end <= begin or r.start >= end:
            continue
        start, stop = max(r.start, begin), min(r.end, end)
        if r.name in ("[copy]", "[set]"):
            copies += stop - start
            continue
        count, total = kernels.get(r.name, (0, 0))
        kernels[r.name] = (count + 1, total + stop - start)
        if start > at:
            gaps.append((start - at, before, r.name))
            # The launch that was last begun before the gap ends; the gap's part behind its end lies between launches.
            launch = bisect.bisect_right(starts, at) - 1
            outside = max(0, start - max(at, ends[launch]))
            between += outside
            inside += start - at - outside
        if stop > at:
            busy += stop - max(start, at)
            advances.setdefault((*behind, r.name), []).append((stop - at, at - start))
            behind = (behind[1], r.name)
            at, before = stop, r.name
    tail = max(0, end - at)
    between += tail
    if tail:
        gaps.append((tail, before, "(next step)"))
    span = end - begin
    pairs = {}
    for length, a, b in gaps:
        pairs.setdefault((a, b), []).append(length)
    return {
        "steps": steps,
        "step_us": span / steps / 1e3,
        "median_step_us": statistics.median(b - a for a, b in zip(starts, starts[1:])) / 1e3,
        "busy_share": busy / span,
        "idle_share": 1 - busy / span,
        "idle_inside_launches_share": inside / span,
        "idle_between_launches_share": between / span,
        "between_launches_us": between / steps / 1e3,
        "copies_us": copies / steps / 1e3,
        "kernels": [
            {"name": name, "per_step": count / steps, "us_per_step": total / steps / 1e3, "share": total / span}
            for name, (count, total) in sorted(kernels.items(), key=lambda item: -item[1][1])
        ],
        "advances": [
            {"behind": list(key[:2]), "name": key[2], "per_step": len(parts) / steps,
             "us": statistics.mean(p[0] for p in parts) / 1e3, "early_us": statistics.mean(p[1] for p in parts) / 1e3}
            for key, parts in sorted(advances.items(), key=lambda item: -sum(p[0] for p in item[1]))[:20]
        ],
        "gaps": [
            {"before": a, "after": b, "per_step": len(lengths) / steps, "us_per_step": sum(lengths) / steps / 1e3, "longest_us": max(lengths) / 1e3}
            for (a, b), lengths in sorted(pairs.items(), key=lambda item: -sum(item[1]))[:20]
        ],
    }


def table(result, level):
    lines = [
        f"{result['steps']} steps of {result['step_us']:.1f} us (median {result['median_step_us']:.1f}), recorded by {level}: "
        f"no kernel runs {100 * result['idle_share']:.2f} % of the time "
        f"({100 * result['idle_between_launches_share']:.2f} % between launches, {result['between_launches_us']:.1f} us a step; "
        f"{100 * result['idle_inside_launches_share']:.2f} % inside)",
        "",
        "| kernel | a step | us a step | share |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {k['name'][:90]} | {k['per_step']:.1f} | {k['us_per_step']:.1f} | {100 * k['share']:.1f} % |" for k in result["kernels"][:25]]
    lines += ["", "| kernel | behind | a step | us from the end before to its own | us that it started before that |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {a['name'][:60]} | {', '.join(n[:30] for n in a['behind'])} | {a['per_step']:.1f} | {a['us']:.2f} | {a['early_us']:.2f} |"
        for a in result["advances"][:12]
    ]
    lines += ["", "| no kernel after | before | a step | us a step | longest us |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {g['before'][:60]} | {g['after'][:60]} | {g['per_step']:.1f} | {g['us_per_step']:.2f} | {g['longest_us']:.1f} |" for g in result["gaps"][:8]
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../build/gpu/bin/libtokamak_cuda_trace.so"))
    parser.add_argument("--cupti", help="libcupti.so.13 (default: of the toolkit or of PyTorch's packages)")
    parser.add_argument("--level", choices=["nodes", "graphs"], default="nodes")
    parser.add_argument("--records", help="read what an earlier run left here, or leave it here")
    parser.add_argument("--json", help="the figures as JSON")
    parser.add_argument("command", nargs="*", help="the program and its arguments, behind --")
    options = parser.parse_args()
    if not options.command and not options.records:
        parser.error("a command behind --, or --records")
    with tempfile.TemporaryDirectory() as folder:
        path = options.records or os.path.join(folder, "records")
        if options.command:
            record(options.command, options.library, options.cupti, options.level, path)
        result = analyse(read(path))
    sys.stdout.write(table(result, options.level))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(dict(result, level=options.level), file, indent=1)


if __name__ == "__main__":
    main()
