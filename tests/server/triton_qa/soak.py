#!/usr/bin/env python3
"""Long runs of `tokamak serve`: mixed load with reloads, cancels and killed processes, then loading and unloading; counts and memory are told.

usage: soak.py [--seconds 1800] [--cycles 1000] [--llm FOLDER] [--json FILE]

Load: unary requests over HTTP and gRPC, streams of a decoupled model, and, with --llm, OpenAI completions streamed and not, some left midway.
Meanwhile one model is reloaded again and again, requests are cancelled, and the process of a python model is killed. Passes when every request
was answered or refused with an error, the server's metrics count what the clients counted, and memory is flat. Needs what run.py needs.
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import queue
import random
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]

import numpy as np  # noqa: E402
import tritonclient.grpc as grpcclient  # noqa: E402
import tritonclient.http as httpclient  # noqa: E402

from harness import Repository, Server, tensors, wait_for  # noqa: E402
from lifecycle import adds, onnx_model  # noqa: E402
from scheduling import REPEAT, WAITS  # noqa: E402


def repository():
    r = Repository()
    batching = "dynamic_batching { max_queue_delay_microseconds: 1000 }\n"
    r.file("neg/1/model.onnx", onnx_model(["n", 64], ["n", 64]))
    r.config("neg", "max_batch_size: 16\n" + batching)
    r.python("reloaded", code=adds(0), config="instance_group { count: 2 kind: KIND_CPU }\n")
    r.python("killed", code=adds(0))
    r.python("waits", code=WAITS, config="instance_group { count: 2 kind: KIND_CPU }\n")
    r.python("repeat", code=REPEAT, inputs={"IN": ("INT32", [-1]), "DELAY": ("INT32", [1])}, outputs={"OUT": ("INT32", [1])},
             config="model_transaction_policy { decoupled: true }\n")  # fmt: skip
    r.python("cycled", code=adds(1))
    r.file("cycled_onnx/1/model.onnx", onnx_model(["n", 64], ["n", 64]))
    return r


class Counts:
    def __init__(self):
        self.lock, self.of, self.errors = threading.Lock(), collections.Counter(), collections.Counter()

    def add(self, model, outcome, error=None):
        with self.lock:
            self.of[model, outcome] += 1
            if error is not None:
                self.errors[model, str(error)[:120]] += 1


def until(stop, work):
    def run():
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def unary(server, counts, model, kind, make, check):
    """One client that asks again and again."""
    local = threading.local()

    def work():
        if not hasattr(local, "client"):
            url = server.http_url if kind is httpclient else server.grpc_url
            local.client = kind.InferenceServerClient(url, **({"network_timeout": 60, "connection_timeout": 60} if kind is httpclient else {}))
        name, x = make()
        try:
            result = local.client.infer(model, tensors(kind, {name: x}))
            counts.add(model, "good" if check(result, x) else "wrong")
        except Exception as error:
            counts.add(model, "error", error)

    return work


def stream(server, counts):
    def work():
        answers = queue.Queue()
        with grpcclient.InferenceServerClient(server.grpc_url) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            for _ in range(10):
                n = random.randint(0, 5)
                arrays = {"IN": np.arange(n, dtype=np.int32), "DELAY": np.array([0], np.int32)}
                client.async_stream_infer("repeat", tensors(grpcclient, arrays), enable_empty_final_response=True)
                found, good = [], True
                while True:
                    try:
                        result, error = answers.get(timeout=60)
                    except queue.Empty:
                        counts.add("repeat", "lost")
                        return
                    if error is not None:
                        counts.add("repeat", "error", error)
                        break
                    response = result.get_response()
                    if len(response.outputs):
                        found.append(result.as_numpy("OUT").item())
                    if response.parameters["triton_final_response"].bool_param:
                        counts.add("repeat", "good" if good and found == list(range(n)) else "wrong")
                        break
            client.stop_stream()

    return work


def cancels(server, counts):
    def work():
        answers = queue.Queue()
        call = server.grpc.async_infer("waits", tensors(grpcclient, {"INPUT0": np.zeros([1], np.float32)}), callback=lambda result, error: answers.put(error))
        time.sleep(random.uniform(0, 0.05))
        call.cancel()
        try:
            answers.get(timeout=60)
            counts.add("waits", "cancelled")
        except queue.Empty:
            counts.add("waits", "lost")

    return work


def completions(server, counts, model):
    def work():
        body = {"model": model, "prompt": f"Paragraph {random.randint(0, 10**6)}:", "max_tokens": random.randint(1, 24), "temperature": 1, "ignore_eos": True,
                "stream": random.random() < 0.5}  # fmt: skip
        leaves = body["stream"] and random.random() < 0.3
        connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=120)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if leaves:
                answer.readline()
                counts.add("llm", "left")
                return
            data = answer.read()
            if answer.status != 200:
                counts.add("llm", "error", data)
            elif body["stream"]:
                counts.add("llm", "good" if data.rstrip().endswith(b"data: [DONE]") else "wrong")
            else:
                counts.add("llm", "good" if json.loads(data)["usage"]["completion_tokens"] == body["max_tokens"] else "wrong")
        except Exception as error:
            counts.add("llm", "error", error)
        finally:
            connection.close()

    return work


def children(pid):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.parent.name))
        except OSError:  # it has ended
            pass
    return found


def worker_of(server, model):
    for pid in children(server.process.pid):
        try:
            if f"/{model}/".encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            pass
    return None


def rss_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def mixed(server, seconds, llm):
    counts, stop = Counts(), threading.Event()
    floats = lambda n: lambda: ("INPUT0", np.random.default_rng().standard_normal(n).astype(np.float32))  # noqa: E731
    same = lambda result, x: np.ptp(d := result.as_numpy("OUTPUT0") - x) < 1e-4 and abs(d[0] - round(d[0])) < 1e-4 and 0 <= round(d[0]) < 7  # noqa: E731
    negated = lambda result, x: np.array_equal(result.as_numpy("y"), -x)  # noqa: E731
    rows = lambda: ("x", np.random.default_rng().standard_normal((random.randint(1, 4), 64)).astype(np.float32))  # noqa: E731
    threads = []
    for kind in (httpclient, grpcclient):
        threads += [until(stop, unary(server, counts, "neg", kind, rows, negated)) for _ in range(2)]
        threads.append(until(stop, unary(server, counts, "reloaded", kind, floats(16), same)))
        threads.append(until(stop, unary(server, counts, "killed", kind, floats(16), same)))
    threads += [until(stop, stream(server, counts)), until(stop, cancels(server, counts)), until(stop, cancels(server, counts))]
    if llm:
        threads += [until(stop, completions(server, counts, llm)) for _ in range(4)]
    begin, memory, edit, kills, reloads = time.monotonic(), [], 0, 0, 0
    with_progress = sys.stderr.isatty()
    while time.monotonic() - begin < seconds and server.process.poll() is None:
        edit += 1
        server.repository.file("reloaded/1/model.py", adds(edit % 7))
        server.grpc.load_model("reloaded")
        reloads += 1
        if edit % 5 == 0 and (pid := worker_of(server, "killed")):
            os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(2)
        memory.append((time.monotonic() - begin, rss_mib(server.process.pid)))
        if with_progress or edit % 30 == 0:
            print(f"{memory[-1][0]:.0f} of {seconds} s, {sum(counts.of.values())} requests, {memory[-1][1]:.0f} MiB", file=sys.stderr, flush=True)
    stop.set()
    for thread in threads:
        thread.join(120)
    if any(thread.is_alive() for thread in threads):
        raise AssertionError("a client still waits for an answer")
    wait_for(lambda: all(not server.metric("nv_inference_pending_request_count", model=m) for m in ("neg", "reloaded", "killed", "waits", "repeat")), 20)
    time.sleep(1)
    settled = [m for t, m in memory if t > seconds / 5]
    third = max(1, len(settled) // 3)
    result = {"seconds": seconds, "reloads": reloads, "kills": kills, "clients": {f"{m} {o}": n for (m, o), n in sorted(counts.of.items())},
              "errors": {f"{m}: {e}": n for (m, e), n in counts.errors.items()}, "metrics": {},
              "rss_mib": {"first third": float(np.median(settled[:third])), "last third": float(np.median(settled[-third:])), "max": max(settled)}}  # fmt: skip
    problems = [f"{n} {o} of {m}" for (m, o), n in counts.of.items() if o in ("lost", "wrong")]
    for model in ("neg", "reloaded", "killed", "waits", "repeat"):
        good, bad = (server.metric(f"nv_inference_request_{k}", model=model) or 0 for k in ("success", "failure"))
        result["metrics"][model] = {"success": good, "failure": bad}
        own = {o: counts.of[model, o] for o in ("good", "error", "cancelled")}
        if model == "waits":  # cancelled on the way in they are never counted
            if good + bad > own["cancelled"]:
                problems.append(f"waits: metrics count {good:.0f} + {bad:.0f}, clients sent {own['cancelled']}")
        elif (good, bad) != (own["good"], own["error"]):
            problems.append(f"{model}: metrics count {good:.0f} good and {bad:.0f} failed, clients {own['good']} and {own['error']}")
    if any(counts.of[m, "error"] for m in ("neg", "reloaded", "repeat", "llm")):
        problems.append("errors of models that nothing happened to")
    growth = result["rss_mib"]["last third"] - result["rss_mib"]["first third"]
    if growth > max(8, 0.03 * result["rss_mib"]["first third"]):
        problems.append(f"memory grew by {growth:.1f} MiB")
    return result, problems


def cycles(server, count):
    """Loading, asking once and unloading two models, `count` times."""
    x = np.ones([1], np.float32)
    memory = []
    for i in range(count):
        for model, name, value in (("cycled", "INPUT0", x), ("cycled_onnx", "x", np.ones([2, 64], np.float32))):
            server.grpc.load_model(model)
            server.grpc.infer(model, tensors(grpcclient, {name: value}))
            server.grpc.unload_model(model)
        wait_for(lambda: not server.grpc.is_model_ready("cycled_onnx"), 20)
        if i % 50 == 49 or i == 9:
            time.sleep(0.3)
            memory.append((i + 1, rss_mib(server.process.pid)))
            print(f"{i + 1} of {count} cycles, {memory[-1][1]:.1f} MiB", file=sys.stderr, flush=True)
    left = [worker_of(server, "cycled")]
    problems = ["a worker process is left"] if left != [None] else []
    if memory[-1][1] - memory[0][1] > max(8, 0.05 * memory[0][1]):
        problems.append(f"memory went from {memory[0][1]:.1f} to {memory[-1][1]:.1f} MiB")
    return {"cycles": count, "rss_mib": memory}, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--llm", help="folder of a language model, served beside the others")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    r = repository()
    flags = ["--model-control-mode", "explicit"] + [f for m in ("neg", "reloaded", "killed", "waits", "repeat") for f in ("--load-model", m)]
    server = Server(r, *flags, *([options.llm] if options.llm else []))
    results, problems = {}, []
    try:
        if options.seconds > 0:
            llm = pathlib.Path(options.llm).name if options.llm else None
            results["mixed"], problems = mixed(server, options.seconds, llm)
        if options.cycles > 0:
            results["cycles"], more = cycles(server, options.cycles)
            problems += more
        server.stop()
    finally:
        if server.process.poll() is None:
            server.process.kill()
        r.close()
    print(json.dumps(results, indent=1))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    for problem in problems:
        print("PROBLEM:", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
