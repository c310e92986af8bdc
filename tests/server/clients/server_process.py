"""`tokamak serve` as a process of a test: its ports, its log, its metrics."""

import json
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODELS = ROOT / "examples/models"
SHARED_MODELS = ROOT / "../shared/models"  # not part of the repository: tests that use it must do without
DEFAULT_COMMAND = [str(ROOT / "build/release/bin/tokamak"), "serve"]


class ServerProcess:
    """Ready when the constructor returns, unless `wait_ready` is False. Ports are free ones; `arguments` come behind them."""

    def __init__(self, *arguments, command=None, scheme="http", wait_ready=True):
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--address", "127.0.0.1"]
        self.process = subprocess.Popen([*(command or DEFAULT_COMMAND), *ports, *map(str, arguments)], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        self.log = []
        self.ports = {}
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            self.wait_for_log("Metrics Service at")
        except RuntimeError:
            self.stop()
            raise
        self.url = f"{scheme}://127.0.0.1:{self.ports.get('HTTPService')}"
        self.grpc = f"127.0.0.1:{self.ports.get('GRPCInferenceService')}"
        self.metrics_url = f"http://127.0.0.1:{self.ports.get('Metrics Service')}/metrics"
        if wait_ready:
            self.wait_for_log("] ready")

    def _read(self):
        for line in self.process.stderr:
            with self.changed:
                self.log.append(line)
                found = re.search(r"Started (.+) at \S*:(\d+)", line)
                if found:
                    self.ports[found.group(1)] = int(found.group(2))
                self.changed.notify_all()
        with self.changed:
            self.log.append("(the process ended)\n")
            self.changed.notify_all()

    def wait_for_log(self, text, seconds=120):
        def is_there():
            return any(text in line for line in self.log) or "(the process ended)\n" in self.log

        with self.changed:
            self.changed.wait_for(is_there, seconds)
            if not any(text in line for line in self.log):
                raise RuntimeError(f"no '{text}' in the log:\n" + "".join(self.log))

    def get(self, path, **headers):
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=60) as answer:
            return answer.read().decode()

    def post(self, path, body, **headers):
        """The answer's JSON and its headers; raises urllib.error.HTTPError."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
            return (json.loads(text) if text else None), dict(answer.headers)

    def metrics(self):
        with urllib.request.urlopen(self.metrics_url, timeout=60) as answer:
            return answer.read().decode()

    def stop(self, by=signal.SIGTERM, seconds=60):
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.reader.join(10)
        self.process.stderr.close()
        return status


DIGITS_REQUEST = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 28, 28], "data": [0.5] * 784}]}


def wait_until(condition, seconds=20, what="what was waited for"):
    """The first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {seconds} s")
