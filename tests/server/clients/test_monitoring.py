#!/usr/bin/env python3
"""docs/monitoring against a running server: the alert rules and the dashboard name only metrics that it exposes, and Prometheus reads all.

usage: test_monitoring.py [unittest arguments]; needs the release build, and promtool (Debian's package prometheus) for part of it.
"""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from server_process import MODELS, ROOT, ServerProcess

FOLDER = ROOT / "docs/monitoring"
PROMTOOL = shutil.which("promtool")
# What Prometheus itself adds.
FROM_PROMETHEUS = {"up"}
# Exposed only where there is an NVIDIA driver: then they are looked for in the answer, else in what writes them.
GPU_METRICS = re.compile(r"nv_gpu_\w+|nv_energy_\w+")
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"}


def metrics_of(query):
    """The names of the metrics in a PromQL expression."""
    query = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    query = re.sub(r"\{[^}]*\}", "", query)
    query = re.sub(r"\[[^\]]*\]", "", query)
    query = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", query)
    names = re.findall(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)(?!\s*\()(?![\w:])", query)
    return {n for n in names if n not in WORDS and not re.fullmatch(r"e\d+", n)}


def alert_queries():
    """Expressions of the rules; the file is YAML, of which only these two forms are used."""
    lines = (FOLDER / "alerts.yml").read_text().splitlines()
    for number, line in enumerate(lines):
        found = re.match(r"(\s*)expr: (.*)", line)
        if not found:
            continue
        if found.group(2) != "|":
            yield found.group(2)
            continue
        rest = lines[number + 1:]
        end = next(i for i, l in enumerate(rest) if not l.startswith(found.group(1) + "  "))
        yield "\n".join(rest[:end])


def dashboard_queries():
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


class TestMonitoring(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess(f"digits={MODELS}/digits-resnet.ts", f"docs={MODELS}/llama3-docs-6m", "--gpu-hour", "2.5", "--metrics-config",
                                   "histogram_latencies=true", "--metrics-config", "summary_latencies=true")
        body = {"inputs": []}
        for tensor in json.loads(cls.server.get("/v2/models/digits"))["inputs"]:
            shape = [max(d, 1) for d in tensor["shape"]]
            count = 1
            for d in shape:
                count *= d
            body["inputs"].append({**tensor, "shape": shape, "data": [0.5] * count})
        cls.server.post("/v2/models/digits/infer", body)
        cls.server.metrics()  # cost is told from the second look on
        cls.server.post("/v1/completions", {"model": "docs", "prompt": "The ls command", "max_tokens": 16})
        cls.text = cls.server.metrics()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def exposed(self):
        return {re.match(r"[\w:]+", line).group(0) for line in self.text.splitlines() if line and not line.startswith("#")}

    def check_names(self, names):
        exposed = self.exposed() | FROM_PROMETHEUS
        has_gpu = any(GPU_METRICS.fullmatch(name) for name in exposed)
        source = (ROOT / "src/server/machine_metrics.cc").read_text()
        for name in names:
            if GPU_METRICS.fullmatch(name) and not has_gpu:
                self.assertIn(f'"{name}"', source)
            else:
                self.assertIn(name, exposed)

    def test_names_are_found_in_queries(self):
        self.assertEqual(metrics_of('sum by (a, b) (rate(x_total{a="y", b=~"$z"}[5m])) / on (a) group_left vllm:n > 1e3 and up == 0'),
                         {"x_total", "vllm:n", "up"})

    def test_alerts_name_what_is_exposed(self):
        names = set().union(*map(metrics_of, alert_queries()))
        self.assertGreater(len(names), 10)
        self.check_names(names)

    def test_dashboard_names_what_is_exposed(self):
        names = set().union(*map(metrics_of, dashboard_queries()))
        self.assertGreater(len(names), 30)
        self.check_names(names)

    def test_every_metric_has_a_value(self):
        self.assertNotIn("NaN", "\n".join(line for line in self.text.splitlines() if "_summary" not in line))

    @unittest.skipUnless(PROMTOOL, "promtool is not installed (Debian: apt install prometheus)")
    def test_prometheus_takes_the_rules(self):
        subprocess.run([PROMTOOL, "check", "rules", "alerts.yml"], cwd=FOLDER, check=True, capture_output=True)
        subprocess.run([PROMTOOL, "test", "rules", "alerts_test.yml"], cwd=FOLDER, check=True, capture_output=True)

    @unittest.skipUnless(PROMTOOL, "promtool is not installed (Debian: apt install prometheus)")
    def test_prometheus_takes_the_dashboards_queries(self):
        rules = [{"record": f"query:{i}", "expr": q.replace("$__rate_interval", "5m")} for i, q in enumerate(dashboard_queries())]
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "queries.yml"
            file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))  # JSON is YAML
            result = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    @unittest.skipUnless(PROMTOOL, "promtool is not installed (Debian: apt install prometheus)")
    def test_prometheus_takes_the_metrics(self):
        result = subprocess.run([PROMTOOL, "check", "metrics"], input=self.text, capture_output=True, text=True)
        # Its advice about names is not for names that others gave: Triton's counters have no _total, vLLM's no base units.
        problems = [line for line in result.stderr.splitlines() if "error while linting" in line or "parsing" in line]
        self.assertEqual(problems, [])
        self.assertIn(result.returncode, (0, 3), result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
