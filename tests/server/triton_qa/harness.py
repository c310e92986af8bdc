"""What the checks share: a server over a repository written for them, clients, and the table of what was checked.

A check is a function under @behaviour("L0_<directory of Triton's qa>", "what is observed"); it gets the Server of its file and raises when the
observation differs. Directories are named after github.com/triton-inference-server/server, folder qa; the checks are our own.
"""

import contextlib
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
import traceback

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ROOT = pathlib.Path(__file__).resolve().parents[3]
COMMAND = [str(ROOT / "build/release/bin/tokamak"), "serve"]
BEHAVIOURS = []  # Behaviour, in the order of their files
NOT_BUILT = {}  # directory: [reason]


class Behaviour:
    def __init__(self, directory, text, call):
        self.directory, self.text, self.call, self.module = directory, text, call, call.__module__
        self.ran, self.error = False, None


def behaviour(directory, text):
    def register(call):
        BEHAVIOURS.append(Behaviour(directory, text, call))
        return call

    return register


def not_built(directory, reason):
    NOT_BUILT.setdefault(directory, []).append(reason)


# Any INPUTn is answered as OUTPUTn. Parameters of the config: delay_ms a batch takes.
IDENTITY = """
import json, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.delay_s = int(config.get("parameters", {}).get("delay_ms", {}).get("string_value", "0")) / 1000

    def execute(self, requests):
        time.sleep(self.delay_s)
        return [pb_utils.InferenceResponse([pb_utils.Tensor(t.name().replace("IN", "OUT", 1), t.as_numpy()) for t in r.inputs()]) for r in requests]
"""


def io(kind, name, datatype, dims, more=""):
    return f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {", ".join(map(str, dims))} ] {more} }}\n'


class Repository:
    """A folder of models in Triton's layout."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="tokamak-qa-"))

    def python(self, name, config="", code=IDENTITY, versions=(1,), max_batch_size=0, inputs=None, outputs=None):
        """`inputs` and `outputs`: {name: (datatype, dims)}; by default INPUT0 and OUTPUT0 of FP32 [-1]."""
        inputs = {"INPUT0": ("FP32", [-1])} if inputs is None else inputs
        outputs = {n.replace("IN", "OUT", 1): t[:2] for n, t in inputs.items()} if outputs is None else outputs
        text = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch_size}\n'
        text += "".join(io("input", n, *t) for n, t in inputs.items()) + "".join(io("output", n, *t) for n, t in outputs.items())
        self.config(name, text + config)
        for version in versions:
            self.file(f"{name}/{version}/model.py", code)

    def config(self, name, text):
        self.file(f"{name}/config.pbtxt", text)

    def file(self, path, content):
        path = self.path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".new")  # a polling server must not see half a file
        scratch.write_bytes(content if isinstance(content, bytes) else content.encode())
        scratch.rename(path)

    def remove(self, path):
        shutil.rmtree(self.path / path)

    def close(self):
        shutil.rmtree(self.path, ignore_errors=True)


class Server:
    """`tokamak serve` over a Repository, in a process of its own."""

    def __init__(self, repository, *flags, environment=None, ready=True):
        self.repository, self.log = repository, []
        command = [*COMMAND, "--model-repository", str(repository.path), "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
        self.ports, self._has_ports = {}, threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._has_ports.wait(120) or len(self.ports) < 3:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "".join(self.log[-30:]))
        self.http_url, self.grpc_url = f"127.0.0.1:{self.ports['http']}", f"127.0.0.1:{self.ports['grpc']}"
        self.http = httpclient.InferenceServerClient(self.http_url, concurrency=64, network_timeout=120, connection_timeout=120)
        self.grpc = grpcclient.InferenceServerClient(self.grpc_url)
        self.clients = [(httpclient, self.http), (grpcclient, self.grpc)]
        if ready:
            wait_for(self.is_ready, 120, lambda: "the server is not ready:\n" + "".join(self.log[-30:]))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            for name, pattern in (("http", r"HTTP\w* at \S+:(\d+)"), ("grpc", r"GRPC\w* at \S+:(\d+)"), ("metrics", r"Metrics Service at \S+:(\d+)")):
                found = re.search(pattern, line)
                if found and name not in self.ports:
                    self.ports[name] = int(found[1])
            if len(self.ports) == 3:
                self._has_ports.set()
        self._has_ports.set()

    def is_ready(self):
        try:
            return self.http.is_server_ready()
        except Exception:
            return False

    def logged(self, pattern):
        return any(re.search(pattern, line) for line in list(self.log))

    # Both protocols say the same of everything below.
    def infer(self, client, model, arrays, outputs=None, **arguments):
        kind, connection = client
        if kind is httpclient and threading.current_thread() is not threading.main_thread():
            # tritonclient.http belongs to the thread that made it (gevent).
            with httpclient.InferenceServerClient(self.http_url, network_timeout=120, connection_timeout=120) as own:
                return self.infer_with(kind, own, model, arrays, outputs, arguments)
        return self.infer_with(kind, connection, model, arrays, outputs, arguments)

    def infer_with(self, kind, connection, model, arrays, outputs, arguments):
        return connection.infer(model, tensors(kind, arrays), outputs=outputs and [kind.InferRequestedOutput(o) for o in outputs], **arguments)

    def statistics(self, model, version=""):
        return self.http.get_inference_statistics(model, version)["model_stats"][0]

    def batches(self, model):
        """Executed batch size: number of executions."""
        return {int(b["batch_size"]): int(b["compute_infer"]["count"]) for b in self.statistics(model).get("batch_stats", [])}

    def metric(self, name, **labels):
        """The sum over all series that have these labels; None when there is none."""
        found = None
        for line in self.request("GET", "/metrics", port="metrics")[2].decode().splitlines():
            match = re.match(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", line)
            own = dict(re.findall(r'(\w+)="([^"]*)"', match[1] or "")) if match else {}
            if match and all(own.get(k) == str(v) for k, v in labels.items()):
                found = (found or 0) + float(match[2])
        return found

    def request(self, method, path, body=None, headers=None, port="http", timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(self, path, body, headers=None):
        return self.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), headers)

    def stop(self, expected=0):
        self.http.close()
        self.grpc.close()
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(60)
        if expected is not None and status != expected:
            raise RuntimeError(f"the server ended with {status}:\n" + "".join(self.log[-30:]))


def tensors(kind, arrays):
    result = []
    for name, array in arrays.items():
        tensor = kind.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        result.append(tensor)
    return result


class Parallel:
    """Calls in threads, started together or `gap_s` apart; results() are values or exceptions, in the order of the calls."""

    def __init__(self, calls, gap_s=0):
        self.values, self.finished = [None] * len(calls), [None] * len(calls)
        self.threads = [threading.Thread(target=self._run, args=(i, call)) for i, call in enumerate(calls)]
        for thread in self.threads:
            thread.start()
            time.sleep(gap_s)

    def _run(self, i, call):
        try:
            self.values[i] = call()
        except Exception as error:
            self.values[i] = error
        self.finished[i] = time.monotonic()

    def results(self):
        for thread in self.threads:
            thread.join()
        return self.values


def wait_for(condition, seconds, message="it did not come true"):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(message() if callable(message) else message)
        time.sleep(0.02)


@contextlib.contextmanager
def refused(text, status=None):
    """The block raises InferenceServerException with `text` (a regular expression) in it, and one of these statuses."""
    try:
        yield
    except InferenceServerException as error:
        assert re.search(text, error.message(), re.I), f"refused with {error.message()!r}, expected {text!r}"
        assert status is None or error.status() in status, f"{error.message()!r} has status {error.status()!r}, expected {status}"
    else:
        raise AssertionError(f"not refused (expected {text!r})")


def equal(actual, expected, what=""):
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected, err_msg=what)
    else:
        assert actual == expected, f"{what}: {actual!r}, expected {expected!r}"


def run(modules, only=None):
    """Each module has repository() and optionally FLAGS; one server a module."""
    for module in modules:
        chosen = [b for b in BEHAVIOURS if b.module == module.__name__ and (only is None or re.search(only, b.directory + " " + b.text))]
        if not chosen:
            continue
        repository = module.repository()
        server = None
        try:
            server = Server(repository, *getattr(module, "FLAGS", ()), environment=getattr(module, "environment", lambda: None)())
            for b in chosen:
                begin, b.ran = time.monotonic(), True
                try:
                    b.call(server)
                    assert server.process.poll() is None, "the server has ended"
                except Exception as error:
                    b.error = f"{type(error).__name__}: {error}"
                    traceback.print_exc()
                    if server.process.poll() is not None:  # others are judged by a server that lives
                        server = Server(repository, *getattr(module, "FLAGS", ()))
                print(f"{'ok    ' if b.error is None else 'FAILED'} {b.directory:24} {b.text} ({time.monotonic() - begin:.1f} s)", flush=True)
            server.stop()
        except RuntimeError as error:  # it does not start, or does not end well
            print("".join(server.log[-20:]) if server else "", flush=True)
            for b in chosen:
                b.error = b.error or str(error)
        finally:
            if server and server.process.poll() is None:
                server.process.kill()
            repository.close()
    return [b for b in BEHAVIOURS if b.error is not None]


def table():
    """One row a directory."""
    lines = ["| Triton's qa | behaviours checked | passed | what | not built, and why |", "| --- | --: | --: | --- | --- |"]
    for directory in sorted({b.directory for b in BEHAVIOURS} | set(NOT_BUILT)):
        own = [b for b in BEHAVIOURS if b.directory == directory]
        texts = "; ".join(b.text + (" (FAILED)" if b.error else "") for b in own)
        lines.append(f"| {directory} | {len(own)} | {sum(b.error is None for b in own)} | {texts} | {'; '.join(NOT_BUILT.get(directory, []))} |")
    total = f"{len(BEHAVIOURS)} behaviours, {sum(b.error is None for b in BEHAVIOURS)} passed."
    return total + "\n\n" + "\n".join(lines) + "\n"
