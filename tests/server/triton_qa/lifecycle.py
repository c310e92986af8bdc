"""Models that come, change and go; what their configuration becomes; metadata, statistics, metrics, trace settings."""

import json
import os
import re
import signal
import threading
import time

import numpy as np
import onnx.helper as oh
from tritonclient.utils import InferenceServerException

from harness import IDENTITY, Parallel, Repository, Server, behaviour, equal, refused, tensors, wait_for

FLAGS = ("--model-control-mode", "explicit", "--load-model", "*", "--metrics-config", "summary_latencies=true", "--metrics-config", "histogram_latencies=true",
         "--metrics-config", "summary_quantiles=0.5:0.05,0.9:0.01")  # fmt: skip

# OUTPUT0 is INPUT0 + VALUE: which file serves is seen in the answers.
ADDS = IDENTITY.replace("t.as_numpy()", "t.as_numpy() + VALUE")


def adds(value, seconds=0.0):
    return f"VALUE = {value}\n" + ADDS.replace("time.sleep(self.delay_s)", f"time.sleep({seconds})")


def onnx_model(shape_in, shape_out, kind=1):
    values = [oh.make_tensor_value_info(name, kind, shape) for name, shape in (("x", shape_in), ("y", shape_out))]
    graph = oh.make_graph([oh.make_node("Neg", ["x"], ["y"])], "neg", values[:1], values[1:])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8).SerializeToString()


def repository():
    r = Repository()
    r.python("steady", code=adds(1))
    r.python("versions", code=adds(1), config="version_policy { latest { num_versions: 2 } }\n", versions=(1, 2))
    r.file("versions/2/model.py", adds(2))
    r.python("slow", code=adds(0, 0.5))
    r.python("counted", max_batch_size=8, config="dynamic_batching { max_queue_delay_microseconds: 200000 }\n")
    for name, shapes in (("auto_rows", (["n", 3], ["n", 3])), ("auto_fixed", ([2, 3], [2, 3]))):
        r.file(f"{name}/1/model.onnx", onnx_model(*shapes))
    r.config("auto_partial", "max_batch_size: 16\n")
    r.file("auto_partial/1/model.onnx", onnx_model(["n", 3], ["n", 3]))
    return r


def value(server, model, client=0, version=""):
    return server.infer(server.clients[client], model, {"INPUT0": np.zeros([1], np.float32)}, model_version=version).as_numpy("OUTPUT0").item()


def state(server, model):
    return {row.get("version", ""): (row.get("state"), row.get("reason", "")) for row in server.http.get_model_repository_index() if row["name"] == model}


@behaviour("L0_lifecycle", "load and unload by API: ready, gone, and ready again; unknown models are refused; both protocols")
def load_unload(server):
    for _, client in server.clients:
        server.repository.python("comes", code=adds(7))
        client.load_model("comes")
        assert client.is_model_ready("comes")
        equal(value(server, "comes"), 7)
        client.unload_model("comes")
        wait_for(lambda: not client.is_model_ready("comes"), 5)
        with refused("not found|no available versions|not at ready state"):
            value(server, "comes")
        with refused("failed to load 'nothing', failed to poll from model repository"):
            client.load_model("nothing")
        client.unload_model("nothing")


@behaviour("L0_lifecycle", "the index says what is ready, what is not, and why")
def index(server):
    server.repository.python("broken", code="raise ValueError('not today')")
    with refused("not today"):
        server.http.load_model("broken")
    equal(state(server, "broken")["1"][0], "UNAVAILABLE")
    assert "not today" in state(server, "broken")["1"][1]
    equal(state(server, "steady"), {"1": ("READY", "")})
    server.repository.remove("broken")


@behaviour("L0_lifecycle", "a reload takes the new files; one that fails keeps the old version serving")
def reload(server):
    server.repository.python("changes", code=adds(1))
    server.http.load_model("changes")
    server.repository.file("changes/1/model.py", adds(2))
    server.http.load_model("changes")
    equal(value(server, "changes"), 2)
    server.repository.file("changes/1/model.py", "raise ValueError('broken edit')")
    with refused("broken edit"):
        server.http.load_model("changes")
    equal(value(server, "changes"), 2)
    assert server.http.is_model_ready("changes")
    server.repository.file("changes/1/model.py", adds(3))
    server.http.load_model("changes")
    equal(value(server, "changes"), 3)


@behaviour("L0_lifecycle", "version policy: a newer folder takes the place of the oldest; each version by its number")
def versions(server):
    equal([value(server, "versions", version=v) for v in ("1", "2", "")], [1, 2, 2])
    server.repository.file("versions/3/model.py", adds(3))
    server.http.load_model("versions")
    equal([value(server, "versions", version=v) for v in ("2", "3", "")], [2, 3, 3])
    with refused("version 1"):
        value(server, "versions", version="1")


@behaviour("L0_lifecycle", "requests in flight when a model is unloaded or replaced are answered")
def in_flight(server):
    running = Parallel([lambda: value(server, "slow")] * 2)
    time.sleep(0.15)
    server.http.unload_model("slow")
    equal(running.results(), [0, 0])
    server.http.load_model("slow")
    running = Parallel([lambda: value(server, "slow")] * 2)
    time.sleep(0.15)
    server.repository.file("slow/1/model.py", adds(5, 0.01))
    server.http.load_model("slow")
    equal(value(server, "slow"), 5)
    equal(running.results(), [0, 0])


@behaviour("L0_lifecycle", "reloads under load: 200 answers, none lost, all of one file or another")
def reload_under_load(server):
    server.repository.python("busy", code=adds(0), config="instance_group { count: 2 kind: KIND_CPU }\n")
    server.http.load_model("busy")
    stop, answers, errors = threading.Event(), [], []

    def ask():
        while not stop.is_set():
            try:
                answers.append(value(server, "busy"))
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for edit in range(1, 6):
        server.repository.file("busy/1/model.py", adds(edit))
        server.http.load_model("busy")
    wait_for(lambda: len(answers) >= 200, 30)
    stop.set()
    for thread in threads:
        thread.join()
    equal(errors[:3], [])
    assert set(answers) <= set(range(6)) and answers[-1] == 5, set(answers)


@behaviour("L0_lifecycle", "a load request may bring its own config and files")
def override(server):
    import base64

    files = {"file:1/model.py": adds(11).encode(), "file:4/model.py": adds(44).encode()}
    config = {"backend": "python", "max_batch_size": 0, "version_policy": {"specific": {"versions": [4]}},
              "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}], "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}]}  # fmt: skip
    for _, client in server.clients:
        client.load_model("steady", config=json.dumps(config), files=files)
        equal(value(server, "steady"), 44)
        client.load_model("steady")
        equal(value(server, "steady"), 1)
    with refused("config"):
        server.http.load_model("steady", files=files)
    status, _, body = server.post("/v2/repository/models/steady/load", {"parameters": {"config": "{}", "file:../x": base64.b64encode(b"x").decode()}})
    assert status in (400, 404), body


@behaviour("L0_lifecycle", "names that would leave the repository, and empty ones, are refused")
def bad_names(server):
    for name in ("..", "../steady", "a/../../b", "a\\b"):
        with refused(""):
            server.grpc.load_model(name)
    for path in ("/v2/repository/models/..%2fsteady/load", "/v2/repository/models/%20/load", "/v2/repository/models/%2e%2e/load"):
        assert server.post(path, {})[0] in (400, 404)


@behaviour("L0_lifecycle", "poll: models that appear, change, break and vanish are followed")
def poll(_):
    r = Repository()
    r.python("first", code=adds(1))
    server = Server(r, "--model-control-mode", "poll", "--repository-poll-secs", "0.2")
    try:
        r.python("second", code=adds(2))
        wait_for(lambda: server.http.is_model_ready("second"), 10)
        r.file("first/1/model.py", adds(5))
        wait_for(lambda: value(server, "first") == 5, 10)
        r.file("first/1/model.py", "raise ValueError()")
        time.sleep(1)
        equal(value(server, "first"), 5)
        r.remove("second")
        wait_for(lambda: not server.http.is_model_ready("second"), 10)
        with refused("polling"):
            server.http.load_model("first")
    finally:
        server.stop()
        r.close()


@behaviour("L0_lifecycle", "a model that fails at the start: the server ends, or serves the others with --exit-on-error false")
def failing_start(_):
    r = Repository()
    r.python("good", code=adds(1))
    r.python("bad", code="raise ValueError('at the start')")
    try:
        try:
            server = Server(r, ready=False)
            wait_for(lambda: server.process.poll() is not None, 20, "the server did not end")
            assert server.process.returncode != 0
        except RuntimeError as error:  # ended before it said where it listens
            assert "at the start" in str(error)
        server = Server(r, "--exit-on-error", "false", "--strict-readiness", "false")
        equal(value(server, "good"), 1)
        assert not server.http.is_model_ready("bad")
        server.stop()
    finally:
        r.close()


@behaviour("L0_lifecycle", "SIGTERM: what is in flight is finished, what comes new is refused, then the server ends with 0")
def drain(_):
    r = Repository()
    r.python("slow", code=adds(3, 1.5))
    server = Server(r)
    try:
        running = Parallel([lambda: value(server, "slow")])
        time.sleep(0.4)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        try:
            value(server, "slow", client=1)
            raise AssertionError("a new request was taken")
        except (InferenceServerException, ConnectionError, OSError):
            pass
        equal(running.results(), [3])
        equal(server.process.wait(20), 0)
    finally:
        r.close()


@behaviour("L0_lifecycle", "a python model whose process is killed: its request fails, others live, it serves again")
def killed_model(server):
    server.repository.python("dies", code="import os\n" + adds(1).replace("def execute(self, requests):", "def execute(self, requests):\n        if requests[0].inputs()[0].as_numpy()[0] < 0: os._exit(1)"))
    server.http.load_model("dies")
    with refused(""):
        server.infer(server.clients[0], "dies", {"INPUT0": -np.ones([1], np.float32)})
    equal(value(server, "steady"), 1)
    wait_for(lambda: not isinstance(Parallel([lambda: value(server, "dies")]).results()[0], Exception), 10)


@behaviour("L0_model_config", "an ONNX model without a config: inputs, outputs, rows and scheduler are told from the file")
def auto_complete(server):
    config = server.http.get_model_config("auto_rows")
    equal((config["max_batch_size"], config["input"][0]["name"], config["input"][0]["data_type"], config["input"][0]["dims"]), (4, "x", "TYPE_FP32", [3]))
    assert "dynamic_batching" in config and config["instance_group"], config
    config = server.http.get_model_config("auto_fixed")
    equal((config["max_batch_size"], config["input"][0]["dims"], config["output"][0]["dims"]), (0, [2, 3], [2, 3]))
    equal(server.http.get_model_config("auto_partial")["max_batch_size"], 16)
    equal(server.http.get_model_metadata("auto_rows")["inputs"][0]["shape"], [-1, 3])
    x = np.ones([2, 3], np.float32)
    equal(server.infer(server.clients[1], "auto_rows", {"x": x}).as_numpy("y"), -x)


@behaviour("L0_model_config", "configs that cannot be are refused with the field and the reason")
def bad_configs(server):
    io = 'input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }\noutput { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }\n'
    cases = (
        ("max_batch_size: -1\n" + io, "max_batch_size"),
        (io + "nonsense {{{", ""),
        (io.replace("dims: [ -1 ]", "dims: [ 0 ]", 1), "dimension must be integer >= 1, or -1"),
        (io.replace("data_type: TYPE_FP32 ", "", 1), "data_type"),
        ('name: "other"\n' + io, "other"),
        (io + "max_batch_size: 4\ndynamic_batching { preferred_batch_size: [ 8 ] }\n", "preferred size must be <= max batch size"),
        (io + "dynamic_batching { priority_levels: 2 default_priority_level: 3 }\n", "default priority level"),
        (io + 'instance_group { count: -1 kind: KIND_CPU }\n', ""),
        ('platform: "ensemble"\n' + io + "ensemble_scheduling { }\n", "step"),
    )
    for i, (text, message) in enumerate(cases):
        name = f"bad_{i}"
        server.repository.file(f"{name}/1/model.py", IDENTITY)
        server.repository.config(name, ("" if "ensemble" in text else 'backend: "python"\n') + text)
        with refused(message):
            server.http.load_model(name)
        server.repository.remove(name)
    assert server.http.is_server_live()


@behaviour("L0_model_config", "ONNX: a name, type or shape that the file does not have is refused")
def contradictions(server):
    for text, message in (('input { name: "z" data_type: TYPE_FP32 dims: [ 3 ] }', "z"), ('input { name: "x" data_type: TYPE_INT32 dims: [ 3 ] }', "x"),
                          ('max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }', "x")):  # fmt: skip
        server.repository.config("contradicts", text + "\n")
        server.repository.file("contradicts/1/model.onnx", onnx_model(["n", 3], ["n", 3]))
        with refused(message):
            server.http.load_model("contradicts")
        server.repository.remove("contradicts")


@behaviour("L0_model_config", "64-bit integers are numbers in the JSON; gRPC and HTTP say the same")
def config_json(server):
    config = server.http.get_model_config("counted")
    equal(config["dynamic_batching"]["max_queue_delay_microseconds"], 200000)
    found = server.grpc.get_model_config("counted").config
    equal((found.max_batch_size, found.dynamic_batching.max_queue_delay_microseconds), (8, 200000))


@behaviour("L0_model_update", "another number of instances: taken over without a lost request")
def instances(server):
    def write(count):
        server.repository.python("scaled", code=adds(0, 0.1), config=f"instance_group {{ count: {count} kind: KIND_CPU }}\n")

    def seconds(requests):
        begin = time.monotonic()
        for result in Parallel([lambda: value(server, "scaled")] * requests).results():
            equal(result, 0)
        return time.monotonic() - begin

    write(1)
    server.http.load_model("scaled")
    assert seconds(4) > 0.38
    running = Parallel([lambda: value(server, "scaled")] * 6)
    write(4)
    server.http.load_model("scaled")
    equal(running.results(), [0] * 6)
    assert seconds(4) < 0.3, "not four at once"
    write(1)
    server.http.load_model("scaled")
    assert seconds(4) > 0.38


@behaviour("L0_model_update", "a config that cannot be keeps the old one serving")
def invalid_update(server):
    server.repository.python("kept", code=adds(0))
    server.http.load_model("kept")
    server.repository.config("kept", 'backend: "python"\nmax_batch_size: -3\n')
    with refused("max_batch_size"):
        server.http.load_model("kept")
    equal(value(server, "kept"), 0)
    equal(server.http.get_model_config("kept")["max_batch_size"], 0)


@behaviour("L0_server_status", "metadata of server and models; unknown models and versions are refused by name")
def metadata(server):
    found = server.http.get_server_metadata()
    extensions = {"classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy", "model_configuration",
                  "system_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging"}  # fmt: skip
    assert extensions <= set(found["extensions"]), extensions - set(found["extensions"])
    equal(server.http.get_model_metadata("versions")["versions"], [str(v) for v in (2, 3)])
    for _, client in server.clients:
        for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
            with refused("Request for unknown model: 'nothing' is not found"):
                call("nothing")
            with refused("version 77|'steady' version"):
                call("steady", "77")


@behaviour("L0_server_status", "statistics: counts, times that add up, executions by size, of ready versions only")
def statistics(server):
    before = server.statistics("counted")
    for result in Parallel([lambda: server.infer(server.clients[0], "counted", {"INPUT0": np.zeros([1, 1], np.float32)})] * 4).results():
        assert not isinstance(result, Exception), result
    after = server.statistics("counted")
    equal(after["inference_count"] - before["inference_count"], 4)
    equal(after["execution_count"] - before["execution_count"], 1)
    parts = after["inference_stats"]
    equal({k: parts[k]["count"] - before["inference_stats"][k].get("count", 0) for k in ("success", "queue", "compute_infer")}, dict.fromkeys(("success", "queue", "compute_infer"), 4))
    total = sum(parts[k].get("ns", 0) for k in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert total <= parts["success"]["ns"] * 1.02, (total, parts["success"]["ns"])
    assert abs(after["last_inference"] - time.time() * 1000) < 60_000
    listed = {s["name"] for s in server.http.get_inference_statistics()["model_stats"]}
    assert "counted" in listed and "nothing" not in listed
    found = server.grpc.get_inference_statistics("counted").model_stats[0]
    equal(found.inference_count, after["inference_count"])


@behaviour("L0_metrics", "Triton's names: counters agree with what clients did, for success, failure, executions, and times")
def metrics(server):
    names = ("nv_inference_request_success", "nv_inference_count", "nv_inference_exec_count")
    before = [server.metric(n, model="counted") or 0 for n in names]
    for _ in range(3):
        server.infer(server.clients[1], "counted", {"INPUT0": np.zeros([2, 1], np.float32)})
    equal([server.metric(n, model="counted") - b for n, b in zip(names, before)], [3, 6, 3])
    failures = server.metric("nv_inference_request_failure", model="counted") or 0
    with refused(""):
        server.infer(server.clients[1], "counted", {"WRONG": np.zeros([2, 1], np.float32)})
    equal(server.metric("nv_inference_request_failure", model="counted") - failures, 1)
    text = server.request("GET", "/metrics", port="metrics")[2].decode()
    for name in ("request_duration_us", "queue_duration_us", "compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us"):
        assert f'nv_inference_{name}{{model="counted",version="1"}}' in text, name
    for name in ("nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes", "nv_inference_pending_request_count"):
        assert name in text, name
    for line in text.splitlines():
        assert re.match(r'#|[a-zA-Z_:][\w:]*(\{(\w+="[^"]*",?)*\})? (-?[\d.e+-]+|NaN|[+-]?Inf)$', line), line


@behaviour("L0_metrics", "summaries with the quantiles asked for, histograms of the first response")
def summaries(server):
    value(server, "steady")
    text = server.request("GET", "/metrics", port="metrics")[2].decode()
    for quantile in ("0.5", "0.9"):
        assert re.search(rf'nv_inference_request_summary_us\{{[^}}]*quantile="{quantile}"', text), quantile
    assert 'quantile="0.99"' not in text
    assert "nv_inference_first_response_histogram_ms_bucket" in text


@behaviour("L0_metrics", "pending requests are those that wait, not those that run")
def pending(server):
    server.repository.python("pends", code=adds(0, 0.4))
    server.http.load_model("pends")
    running = Parallel([lambda: value(server, "pends")] * 3)
    time.sleep(0.2)
    equal(server.metric("nv_inference_pending_request_count", model="pends"), 2)
    running.results()
    equal(server.metric("nv_inference_pending_request_count", model="pends"), 0)


@behaviour("L0_metrics", "/metrics answers on the HTTP port too, as text of version 0.0.4")
def metrics_port(server):
    status, headers, _ = server.request("GET", "/metrics")
    equal(status, 200)
    assert "version=0.0.4" in headers["content-type"], headers


@behaviour("L0_trace", "settings: the server's, a model's own, cleared again; file and mode only on the command line")
def trace_settings(server):
    before = server.http.get_trace_settings()
    for _, client in server.clients:
        arguments = {"as_json": True} if client is server.grpc else {}
        client.update_trace_settings("steady", {"trace_rate": "5", "trace_level": ["TIMESTAMPS"]}, **arguments)
        equal(server.http.get_trace_settings("steady")["trace_rate"], "5")
        equal(server.http.get_trace_settings(), before)
        client.update_trace_settings("steady", {"trace_rate": None, "trace_level": None}, **arguments)
        equal(server.http.get_trace_settings("steady"), before)
        for settings in ({"trace_file": "elsewhere"}, {"trace_mode": "opentelemetry"}, {"trace_rate": "x"}, {"trace_level": ["LOUD"]}, {"nothing": "1"}):
            with refused(""):
                client.update_trace_settings("", settings)


@behaviour("L0_trace", "a traced request has its times in order in the file, which is whole JSON when the server has ended")
def trace_file(_):
    import tempfile

    r = Repository()
    r.python("steady", code=adds(1))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        server = Server(r, "--trace-config", f"triton,file={path}", "--trace-config", "rate=2", "--trace-config", "level=TIMESTAMPS", "--trace-config", "mode=triton")
        try:
            for _ in range(6):
                value(server, "steady")
            value(server, "steady", client=1)
        finally:
            server.stop()
            r.close()
        files = [os.path.join(folder, f) for f in os.listdir(folder)]
        events = [event for f in files for event in json.load(open(f))]
        times = {}
        for event in events:
            for stamp in event.get("timestamps", []):
                times.setdefault(event["id"], {})[stamp["name"]] = stamp["ns"]
        complete = [t for t in times.values() if "REQUEST_START" in t]
        assert len(complete) in (3, 4), f"{len(complete)} of 7 requests with rate 2"
        order = ("REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END")
        for t in complete:
            found = [t[name] for name in order]
            equal(found, sorted(found))
