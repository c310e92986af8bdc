"""Batcher, queue policies, sequences, decoupled models, ensembles, cache, cancellation: what clients and statistics show of them."""

import queue
import socket
import time

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from harness import IDENTITY, Parallel, Repository, behaviour, equal, refused, tensors, wait_for

FLAGS = ("--cache-config", "local,size=1048576", "--model-control-mode", "explicit", "--load-model", "*")

# Answers with what it saw: the running sum of the sequence's values, the controls, and the rows of its execution.
SEQUENCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            get = lambda name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            sequence = get("CORRID").ravel()[0]
            value = int(get("INPUT").ravel()[0])
            start, end, ready = (int(get(n).ravel()[0]) for n in ("START", "END", "READY"))
            if ready:
                self.sums[sequence] = value if start else self.sums[sequence] + value
            controls = np.array([[start, end, ready, len(requests)]], np.int32)
            total = np.array([[self.sums.get(sequence, 0)]], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", total), pb_utils.Tensor("CONTROLS", controls)]))
        return responses
"""

# Adds INPUT to a state that the server keeps.
STATE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            state = pb_utils.get_input_tensor_by_name(request, "STATE_IN").as_numpy()
            total = x + state
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", total), pb_utils.Tensor("STATE_OUT", total)]))
        return responses
"""

# One response a value of IN, DELAY ms before each.
REPEAT = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            delay = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()[0]
            for value in pb_utils.get_input_tensor_by_name(request, "IN").as_numpy():
                if request.is_cancelled():
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)),
                                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                    break
                time.sleep(delay / 1000)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value], np.int32))]))
            else:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# Waits up to 5 s for its cancellation.
WAITS = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for _ in range(250):
            if all(request.is_cancelled() for request in requests):
                break
            time.sleep(0.02)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", r.inputs()[0].as_numpy())]) for r in requests]
"""

FAILS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("this step fails")) for _ in requests]
"""

ADD = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        get = pb_utils.get_input_tensor_by_name
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SUM", get(r, "A").as_numpy() + get(r, "B").as_numpy()),
                                            pb_utils.Tensor("DIFF", get(r, "A").as_numpy() - get(r, "B").as_numpy())]) for r in requests]
"""

CONTROLS = "".join(
    f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} }}\n' for name in ("START", "END", "READY")
) + 'control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_%s } }\n'  # fmt: skip


def delay(ms):
    return 'parameters { key: "delay_ms" value { string_value: "%d" } }\n' % ms


def ensemble(inputs, outputs, steps, max_batch_size=0, more=""):
    """`inputs`, `outputs`: {name: (datatype, dims)}; steps: (model, {model's input: tensor}, {model's output: tensor})."""
    text = f'platform: "ensemble"\nmax_batch_size: {max_batch_size}\n'
    for kind, values in (("input", inputs), ("output", outputs)):
        for name, (datatype, dims) in values.items():
            text += f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {dims} }}\n'
    text += "ensemble_scheduling {\n" + more
    for model, reads, writes in steps:
        text += f'  step {{ model_name: "{model}" model_version: -1\n'
        for kind, entries in (("input_map", reads), ("output_map", writes)):
            for key, value in entries.items():
                text += f'    {kind} {{ key: "{key}" value: "{value}" }}\n'
        text += "  }\n"
    return text + "}\n"


def repository():
    r = Repository()
    # max_queue_delay 0 would send single requests off at once.
    r.python("preferred", max_batch_size=8, config="dynamic_batching { preferred_batch_size: [ 2, 6 ] max_queue_delay_microseconds: 2000000 }\n" + delay(20))
    r.python("delayed", max_batch_size=8, config="dynamic_batching { max_queue_delay_microseconds: 500000 }\n")
    r.python("ordered", max_batch_size=1, config="dynamic_batching { preserve_ordering: true }\ninstance_group { count: 3 kind: KIND_CPU }\n",
             code=IDENTITY.replace("time.sleep(self.delay_s)", "time.sleep(float(requests[0].inputs()[0].as_numpy().ravel()[0]))"))  # fmt: skip
    r.python("unbatched", max_batch_size=8, config="dynamic_batching { }\n" + delay(100))
    policy = "default_queue_policy { timeout_action: %s default_timeout_microseconds: %d allow_timeout_override: true max_queue_size: %d }"
    r.python("full", max_batch_size=1, config="dynamic_batching { " + policy % ("REJECT", 0, 2) + " }\n" + delay(500))
    r.python("rejects", max_batch_size=1, config="dynamic_batching { " + policy % ("REJECT", 200000, 0) + " }\n" + delay(600))
    r.python("delays", max_batch_size=1, config="dynamic_batching { " + policy % ("DELAY", 5000000, 0) + " }\n" + delay(300))
    r.python("priorities", max_batch_size=1, config="dynamic_batching { priority_levels: 2 default_priority_level: 2 }\n" + delay(200))

    io = {"inputs": {"INPUT": ("INT32", [1])}, "outputs": {"OUTPUT": ("INT32", [1]), "CONTROLS": ("INT32", [4])}, "max_batch_size": 4}
    strategy = {"direct": "direct { }\n", "oldest": "oldest { max_candidate_sequences: 4 }\n", "text": "oldest { max_candidate_sequences: 4 }\n",
                "idle": "direct { }\nmax_sequence_idle_microseconds: 400000\n", "slots": "direct { }\n"}  # fmt: skip
    for name, text in strategy.items():
        own = io | ({"max_batch_size": 2} if name == "slots" else {})
        r.python(f"sequence_{name}", code=SEQUENCE, **own,
                 config="sequence_batching {\n" + text + CONTROLS % ("STRING" if name == "text" else "UINT64") + "}\n")  # fmt: skip
    state = 'state [ { input_name: "STATE_IN" output_name: "STATE_OUT" data_type: TYPE_INT32 dims: [ 1 ] %s } ]\n'
    for name, initial in (("zero", ""), ("file", 'initial_state { data_type: TYPE_INT32 dims: [ 1 ] data_file: "ten" name: "ten" }')):
        r.python(f"state_{name}", code=STATE, inputs={"INPUT": ("INT32", [1])}, outputs={"OUTPUT": ("INT32", [1])}, max_batch_size=4,
                 config="sequence_batching {\n oldest { max_candidate_sequences: 4 }\n" + state % initial + "}\n")  # fmt: skip
    r.file("state_file/initial_state/ten", np.array([10], np.int32).tobytes())

    r.python("repeat", code=REPEAT, inputs={"IN": ("INT32", [-1]), "DELAY": ("INT32", [1])}, outputs={"OUT": ("INT32", [1])},
             config="model_transaction_policy { decoupled: true }\n")  # fmt: skip
    r.python("waits", code=WAITS, config=delay(0))
    r.python("fails", code=FAILS)

    r.python("add", code=ADD, inputs={"A": ("FP32", [4]), "B": ("FP32", [4])}, outputs={"SUM": ("FP32", [4]), "DIFF": ("FP32", [4])}, max_batch_size=8)
    r.python("slow_add", code=ADD, inputs={"A": ("FP32", [4]), "B": ("FP32", [4])}, outputs={"SUM": ("FP32", [4]), "DIFF": ("FP32", [4])}, max_batch_size=8)
    # (a + b) + (a - b) = 2a and (a + b) - (a - b) = 2b, through two steps.
    diamond = [("add", {"A": "A", "B": "B"}, {"SUM": "sum", "DIFF": "diff"}), ("add", {"A": "sum", "B": "diff"}, {"SUM": "TWO_A", "DIFF": "TWO_B"})]
    ab = {"A": ("FP32", [4]), "B": ("FP32", [4])}
    r.config("ensemble", ensemble(ab, {"TWO_A": ("FP32", [4]), "TWO_B": ("FP32", [4])}, diamond, 8))
    (r.path / "ensemble/1").mkdir()
    r.config("nested", ensemble(ab, {"FOUR_A": ("FP32", [4])}, [("ensemble", {"A": "A", "B": "B"}, {"TWO_A": "a2", "TWO_B": "b2"}),
                                                                ("ensemble", {"A": "a2", "B": "b2"}, {"TWO_A": "FOUR_A"})], 8))  # fmt: skip
    (r.path / "nested/1").mkdir()
    x = {"X": ("FP32", [-1])}
    r.config("ensemble_fails", ensemble(x, {"Y": ("FP32", [-1]), "Z": ("FP32", [-1])}, [("fails", {"INPUT0": "X"}, {"OUTPUT0": "Y"}), ("waits", {"INPUT0": "X"}, {"OUTPUT0": "Z"})]))
    (r.path / "ensemble_fails/1").mkdir()
    r.config("ensemble_waits", ensemble(x, {"Y": ("FP32", [-1])}, [("waits", {"INPUT0": "X"}, {"OUTPUT0": "Y"})]))
    (r.path / "ensemble_waits/1").mkdir()
    r.config("ensemble_repeat", ensemble({"IN": ("INT32", [-1]), "DELAY": ("INT32", [1])}, {"OUT": ("INT32", [1])},
                                         [("repeat", {"IN": "IN", "DELAY": "DELAY"}, {"OUT": "OUT"})]))  # fmt: skip
    (r.path / "ensemble_repeat/1").mkdir()

    cache = "response_cache { enable: true }\n"
    r.python("cached", config=cache + delay(50), max_batch_size=8)
    r.config("cached_ensemble", ensemble(ab, {"S": ("FP32", [4])}, [("slow_add", {"A": "A", "B": "B"}, {"SUM": "S"})], 8) + cache)
    (r.path / "cached_ensemble/1").mkdir()
    return r


def row(*values):
    return np.array([values], np.float32)


def ask(server, model, value=0.0, client=0, **arguments):
    x = row(value) if model != "waits" else np.array([value], np.float32)
    return server.infer(server.clients[client], model, {"INPUT0": x}, **arguments)


def all_good(results):
    for result in results:
        if isinstance(result, Exception):
            raise result


def executions(server, model, calls, gap_s=0.0):
    """Batch sizes that `calls` were executed in, with counts."""
    before = server.batches(model)
    all_good(Parallel(calls, gap_s).results())
    after = server.batches(model)
    return {size: count - before.get(size, 0) for size, count in after.items() if count != before.get(size, 0)}


@behaviour("L0_batcher", "preferred sizes 2 and 6: two requests go together at once, six as six, the executed sizes say so")
def preferred_sizes(server):
    begin = time.monotonic()
    equal(executions(server, "preferred", [lambda: ask(server, "preferred")] * 2), {2: 1})
    assert time.monotonic() - begin < 1.5, "the preferred size waited for the delay"
    sizes = executions(server, "preferred", [lambda: ask(server, "preferred")] * 8)
    equal(sum(size * count for size, count in sizes.items()), 8)
    assert set(sizes) <= {2, 6}, sizes


@behaviour("L0_batcher", "a size that is not preferred goes when the oldest request has waited max_queue_delay")
def delay_bounds(server):
    begin = time.monotonic()
    equal(executions(server, "preferred", [lambda: ask(server, "preferred")]), {1: 1})
    assert 1.9 < time.monotonic() - begin < 4, "2 s of delay"
    begin = time.monotonic()
    equal(executions(server, "delayed", [lambda: ask(server, "delayed")] * 3, gap_s=0.05), {3: 1})
    assert 0.45 < time.monotonic() - begin < 2.5


@behaviour("L0_batcher", "a batch of max_batch_size goes without delay; what would exceed it waits for the next")
def full_batches(server):
    x = np.zeros([5, 1], np.float32)
    sizes = executions(server, "delayed", [lambda: server.infer(server.clients[0], "delayed", {"INPUT0": x})] * 2, gap_s=0.05)
    equal(sizes, {5: 2})
    begin = time.monotonic()
    equal(executions(server, "delayed", [lambda: ask(server, "delayed")] * 8), {8: 1})
    assert time.monotonic() - begin < 0.45


@behaviour("L0_batcher", "requests of different shapes are never in one batch")
def shapes_split(server):
    def call(width):
        return lambda: server.infer(server.clients[0], "delayed", {"INPUT0": np.zeros([1, width], np.float32)})

    equal(executions(server, "delayed", [call(2), call(2), call(3), call(3)], gap_s=0.05), {2: 2})


@behaviour("L0_batcher", "each request of a batch gets its own rows back")
def own_rows(server):
    values = Parallel([(lambda v=v: ask(server, "delayed", v).as_numpy("OUTPUT0").item()) for v in range(8)]).results()
    equal(values, list(range(8)))


@behaviour("L0_batcher", "preserve_ordering: answers of three instances come in the order of the requests")
def preserved_order(server):
    answers = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put(error or result.as_numpy("OUTPUT0").item()))
        for seconds in (0.5, 0.2, 0.0):
            client.async_stream_infer("ordered", tensors(grpcclient, {"INPUT0": row(seconds)}))
        found = [answers.get(timeout=10) for _ in range(3)]
        client.stop_stream()
    np.testing.assert_allclose(found, [0.5, 0.2, 0.0], atol=1e-6)


@behaviour("L0_batcher", "without a delay a waiting backlog is batched behind the execution that runs")
def backlog(server):
    sizes = executions(server, "unbatched", [lambda: ask(server, "unbatched")] * 5, gap_s=0.015)
    equal(sum(s * n for s, n in sizes.items()), 5)
    assert sum(sizes.values()) <= 3 and max(sizes) >= 3, sizes


@behaviour("L0_model_queue", "max_queue_size: the request too many is refused at once with status 503, both protocols")
def queue_full(server):
    before = server.metric("nv_inference_request_failure", model="full", reason="REJECTED") or 0
    calls = Parallel([lambda: ask(server, "full")] * 3, gap_s=0.1)  # one runs, two wait
    with refused("Exceeds maximum queue size", ("503",)):
        ask(server, "full")
    with refused("Exceeds maximum queue size", ("StatusCode.UNAVAILABLE",)):
        ask(server, "full", client=1)
    all_good(calls.results())
    equal(server.metric("nv_inference_request_failure", model="full", reason="REJECTED") - before, 2)


@behaviour("L0_model_queue", "REJECT: a request that waited too long is refused, and counted as REJECTED")
def timeout_rejects(server):
    before = server.metric("nv_inference_request_failure", model="rejects", reason="REJECTED") or 0
    results = Parallel([lambda: ask(server, "rejects")] * 2, gap_s=0.1).results()
    assert not isinstance(results[0], Exception), results[0]
    assert isinstance(results[1], InferenceServerException) and "Request timeout expired" in str(results[1]), results[1]
    equal(server.metric("nv_inference_request_failure", model="rejects", reason="REJECTED") - before, 1)


@behaviour("L0_model_queue", "a request's own timeout shortens the policy's, and cannot lengthen it")
def timeout_override(server):
    for timeout, earliest, latest in ((50_000, 0, 0.55), (10_000_000, 0.1, 0.75)):
        running = Parallel([lambda: ask(server, "rejects")])
        time.sleep(0.1)
        begin = time.monotonic()
        with refused("Request timeout expired"):
            ask(server, "rejects", timeout=timeout)
        assert earliest <= time.monotonic() - begin < latest
        all_good(running.results())


@behaviour("L0_model_queue", "DELAY: a request that waited too long goes behind the others, and is still answered")
def timeout_delays(server):
    calls = Parallel([lambda: ask(server, "delays"), lambda: ask(server, "delays", timeout=20_000), lambda: ask(server, "delays")], gap_s=0.04)
    all_good(calls.results())
    assert calls.finished[2] < calls.finished[1], "the late one did not go behind"


@behaviour("L0_model_queue", "priority 1 goes before requests of the default level that wait")
def priority(server):
    calls = [lambda: ask(server, "priorities")] * 3 + [lambda: ask(server, "priorities", priority=1)]
    waiting = Parallel(calls, gap_s=0.03)
    all_good(waiting.results())
    assert waiting.finished[3] < waiting.finished[1] < waiting.finished[2], waiting.finished


def step(server, model, value, sequence, start=False, end=False, client=1, **arguments):
    result = server.infer(server.clients[client], model, {"INPUT": np.array([[value]], np.int32)}, sequence_id=sequence, sequence_start=start,
                          sequence_end=end, **arguments)  # fmt: skip
    controls = result.as_numpy("CONTROLS")
    return result.as_numpy("OUTPUT").item(), None if controls is None else controls.ravel().tolist()


@behaviour("L0_sequence_batcher", "direct and oldest: sums along sequences, START, END and READY as they should be, both protocols")
def sequences(server):
    for model in ("sequence_direct", "sequence_oldest"):
        for client in (0, 1):
            total, controls = step(server, model, 1, 100 + client, start=True, client=client)
            equal((total, controls[:3]), (1, [1, 0, 1]))
            equal(step(server, model, 2, 100 + client, client=client)[1][:3], [0, 0, 1])
            total, controls = step(server, model, 3, 100 + client, end=True, client=client)
            equal((total, controls[:3]), (6, [0, 1, 1]))


@behaviour("L0_sequence_batcher", "no correlation ID, and no START on a first request, are refused")
def sequence_rules(server):
    for model in ("sequence_direct", "sequence_oldest"):
        for client in server.clients:
            with refused(f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"):
                server.infer(client, model, {"INPUT": np.array([[1]], np.int32)})
        with refused(f"inference request for sequence 999 to model '{model}' must specify the START flag on the first request of the sequence"):
            step(server, model, 1, 999)


@behaviour("L0_sequence_batcher", "START on a sequence that runs begins it anew; after END its ID is free again")
def sequence_restart(server):
    for model in ("sequence_direct", "sequence_oldest"):
        step(server, model, 5, 7, start=True)
        equal(step(server, model, 1, 7, start=True)[0], 1)
        equal(step(server, model, 1, 7, end=True)[0], 2)
        with refused("START flag"):
            step(server, model, 1, 7)
        equal(step(server, model, 4, 7, start=True, end=True)[0], 4)


@behaviour("L0_sequence_batcher", "correlation IDs may be text")
def sequence_text(server):
    for client in (0, 1):
        equal(step(server, "sequence_text", 1, f"one-{client}", start=True, client=client)[0], 1)
        equal(step(server, "sequence_text", 1, f"two-{client}", start=True, client=client)[0], 1)
        equal(step(server, "sequence_text", 2, f"one-{client}", end=True, client=client)[0], 3)
        equal(step(server, "sequence_text", 5, f"two-{client}", end=True, client=client)[0], 6)


@behaviour("L0_sequence_batcher", "an idle sequence loses its slot after max_sequence_idle_microseconds")
def sequence_idle(server):
    step(server, "sequence_idle", 1, 11, start=True)
    time.sleep(0.2)
    equal(step(server, "sequence_idle", 1, 11)[0], 2)
    time.sleep(1.0)
    with refused("START flag"):
        step(server, "sequence_idle", 1, 11)


@behaviour("L0_sequence_batcher", "more sequences than slots: the others wait in order and run when a slot is free")
def sequence_backlog(server):
    for sequence in (21, 22):
        step(server, "sequence_slots", 1, sequence, start=True)
    waiting = Parallel([(lambda s=s: step(server, "sequence_slots", s, s, start=True, end=True)) for s in (23, 24, 25)], gap_s=0.1)
    time.sleep(0.3)
    equal([v for v in waiting.values if v is not None], [])
    step(server, "sequence_slots", 1, 21, end=True)
    totals = waiting.results()
    all_good(totals)
    equal([t[0] for t in totals], [23, 24, 25])
    assert waiting.finished == sorted(waiting.finished), waiting.finished
    equal(step(server, "sequence_slots", 1, 22, end=True)[0], 2)


@behaviour("L0_sequence_batcher", "ten sequences at once over streams, 20 requests each: every sum right, in order")
def sequence_streams(server):
    for model in ("sequence_direct", "sequence_oldest"):
        errors = []

        def one(sequence):
            answers = queue.Queue()
            with grpcclient.InferenceServerClient(server.grpc_url) as client:
                client.start_stream(lambda result, error: answers.put(error or result.as_numpy("OUTPUT").item()))
                for i in range(20):
                    client.async_stream_infer(model, tensors(grpcclient, {"INPUT": np.array([[i]], np.int32)}), sequence_id=sequence,
                                              sequence_start=i == 0, sequence_end=i == 19)  # fmt: skip
                found = [answers.get(timeout=60) for _ in range(20)]
                client.stop_stream()
            if found != [i * (i + 1) // 2 for i in range(20)]:
                errors.append((model, sequence, found))

        all_good(Parallel([(lambda s=s: one(s)) for s in range(200, 210)]).results())
        equal(errors, [])


@behaviour("L0_sequence_batcher", "implicit state: from zero or from a file at START, kept by the server between requests")
def implicit_state(server):
    for model, first in (("state_zero", 0), ("state_file", 10)):
        for sequence in (31, 32):  # the second one begins anew
            total = first
            for i, value in enumerate((1, 2, 3)):
                result = server.infer(server.clients[1], model, {"INPUT": np.array([[value]], np.int32)}, sequence_id=sequence,
                                      sequence_start=i == 0, sequence_end=i == 2)  # fmt: skip
                total += value
                equal(result.as_numpy("OUTPUT").item(), total, f"{model} {sequence} {i}")
                equal(result.as_numpy("STATE_OUT"), None)


class Stream:
    def __init__(self, server):
        self.client, self.answers = grpcclient.InferenceServerClient(server.grpc_url), queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def repeat(self, values, delay_ms=0, model="repeat", **arguments):
        arrays = {"IN": np.array(values, np.int32), "DELAY": np.array([delay_ms], np.int32)}
        self.client.async_stream_infer(model, tensors(grpcclient, arrays), **arguments)

    def next(self, timeout=10):
        return self.answers.get(timeout=timeout)

    def close(self, cancel=False):
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


@behaviour("L0_decoupled", "one request, many responses in order; none at all; the final flag on the last")
def decoupled(server):
    for model in ("repeat", "ensemble_repeat"):
        stream = Stream(server)
        stream.repeat([3, 1, 2], model=model, enable_empty_final_response=True)
        found = [stream.next()[0] for _ in range(4)]
        equal([r.as_numpy("OUT").item() for r in found[:3]], [3, 1, 2])
        finals = [r.get_response().parameters["triton_final_response"].bool_param for r in found]
        equal(finals, [False, False, False, True])
        stream.repeat([], model=model, enable_empty_final_response=True)
        result, error = stream.next()
        equal((error, result.get_response().parameters["triton_final_response"].bool_param), (None, True))
        stream.close()


@behaviour("L0_decoupled", "responses of several requests on a stream, each with its request's id")
def decoupled_ids(server):
    stream = Stream(server)
    for i in range(4):
        stream.repeat([i * 10, i * 10 + 1], request_id=str(i), enable_empty_final_response=True)
    found = {str(i): [] for i in range(4)}
    for _ in range(12):
        result, error = stream.next()
        equal(error, None)
        if len(result.get_response().outputs):
            found[result.get_response().id].append(result.as_numpy("OUT").item())
    equal(found, {str(i): [i * 10, i * 10 + 1] for i in range(4)})
    stream.close()


@behaviour("L0_decoupled", "a plain infer of a decoupled model is refused, both protocols")
def decoupled_unary(server):
    arrays = {"IN": np.array([1], np.int32), "DELAY": np.array([0], np.int32)}
    for client in server.clients:
        with refused("decoupled"):
            server.infer(client, "repeat", arrays)


@behaviour("L0_decoupled", "a stream that is cancelled midway ends the request in the model")
def decoupled_cancel(server):
    before = server.statistics("repeat")["inference_stats"]["fail"]["count"]
    stream = Stream(server)
    stream.repeat(list(range(100)), delay_ms=30)
    stream.next()
    stream.close(cancel=True)
    wait_for(lambda: server.statistics("repeat")["inference_stats"]["fail"]["count"] > before, 2, "the model was not told")


@behaviour("L0_simple_ensemble", "a chain of steps gives what its models give one after the other; nested too; both protocols, with batches")
def ensembles(server):
    a, b = np.random.default_rng(5).standard_normal((2, 3, 4)).astype(np.float32)
    for client in server.clients:
        result = server.infer(client, "ensemble", {"A": a, "B": b})
        equal(result.as_numpy("TWO_A"), (a + b) + (a - b))
        equal(result.as_numpy("TWO_B"), (a + b) - (a - b))
        np.testing.assert_allclose(server.infer(client, "nested", {"A": a, "B": b}).as_numpy("FOUR_A"), 4 * a, rtol=1e-5, atol=1e-6)


@behaviour("L0_simple_ensemble", "part of the outputs; statistics count the ensemble and each of its steps")
def ensemble_statistics(server):
    a = np.ones((2, 4), np.float32)
    before = {m: server.statistics(m)["inference_count"] for m in ("ensemble", "add")}
    result = server.infer(server.clients[0], "ensemble", {"A": a, "B": a}, outputs=["TWO_B"])
    equal((result.as_numpy("TWO_A"), result.as_numpy("TWO_B").tolist()), (None, (2 * a).tolist()))
    equal({m: server.statistics(m)["inference_count"] - n for m, n in before.items()}, {"ensemble": 2, "add": 4})


@behaviour("L0_simple_ensemble", "a step that fails answers once, with its message, while another still runs")
def ensemble_failure(server):
    begin = time.monotonic()
    for client in server.clients:
        with refused("this step fails"):
            server.infer(client, "ensemble_fails", {"X": np.zeros([2], np.float32)})
    assert time.monotonic() - begin < 5
    equal(server.statistics("ensemble_fails")["inference_stats"]["success"].get("count", 0), 0)


@behaviour("L0_response_cache", "the second like request is a hit: same answer, no execution, counted in statistics and metrics")
def cache_hits(server):
    x = np.random.default_rng().standard_normal((1, 5)).astype(np.float32)
    executions_before = server.statistics("cached")["execution_count"]
    before = [server.metric(f"nv_cache_num_{k}_per_model", model="cached") or 0 for k in ("hits", "misses")]
    for client in (server.clients[0], server.clients[1], server.clients[0]):
        equal(server.infer(client, "cached", {"INPUT0": x}).as_numpy("OUTPUT0"), x)
    after = [server.metric(f"nv_cache_num_{k}_per_model", model="cached") for k in ("hits", "misses")]
    equal([a - b for a, b in zip(after, before)], [2, 1])
    equal(server.statistics("cached")["execution_count"] - executions_before, 1)
    stats = server.statistics("cached")["inference_stats"]
    equal((stats["cache_hit"]["count"] >= 2, stats["cache_miss"]["count"] >= 1), (True, True))
    y = x + 1
    equal(server.infer(server.clients[0], "cached", {"INPUT0": y}).as_numpy("OUTPUT0"), y)


@behaviour("L0_response_cache", "an ensemble's whole answer is cached: its steps do not run again")
def cached_ensemble(server):
    a = np.random.default_rng().standard_normal((1, 4)).astype(np.float32)
    before = server.statistics("slow_add")["execution_count"]
    for _ in range(3):
        equal(server.infer(server.clients[1], "cached_ensemble", {"A": a, "B": a}).as_numpy("S"), a + a)
    equal(server.statistics("slow_add")["execution_count"] - before, 1)


@behaviour("L0_response_cache", "an answer larger than the cache is given and not kept")
def cache_too_small(server):
    x = np.random.default_rng().standard_normal((1, 600_000)).astype(np.float32)
    for _ in range(2):
        equal(server.infer(server.clients[1], "cached", {"INPUT0": x}).as_numpy("OUTPUT0"), x)


@behaviour("L0_response_cache", "a decoupled model, or one with sequences, cannot have a cache: the load is refused")
def cache_refused(server):
    for name, config in (("bad_cache_1", "model_transaction_policy { decoupled: true }\n"), ("bad_cache_2", "sequence_batching { }\n")):
        server.repository.python(name, config="response_cache { enable: true }\n" + config)
        with refused("[Cc]ache"):
            server.http.load_model(name)


@behaviour("L0_request_cancellation", "a request cancelled while it waits never runs; counted as CANCELED")
def cancel_queued(server):
    before = server.metric("nv_inference_request_failure", model="full", reason="CANCELED") or 0
    count = server.statistics("full")["execution_count"]
    running = Parallel([lambda: ask(server, "full")])
    time.sleep(0.1)
    answers = queue.Queue()
    call = server.grpc.async_infer("full", tensors(grpcclient, {"INPUT0": row(1)}), callback=lambda result, error: answers.put(error))
    time.sleep(0.1)
    call.cancel()
    assert answers.get(timeout=5) is not None
    all_good(running.results())
    wait_for(lambda: (server.metric("nv_inference_request_failure", model="full", reason="CANCELED") or 0) == before + 1, 3)
    equal(server.statistics("full")["execution_count"] - count, 1)


def ended(server, model):
    """Requests that `model` has ended, one way or another."""
    stats = server.statistics(model)["inference_stats"]
    return sum(int(stats[key].get("count", 0)) for key in ("success", "fail"))


def expect_cancelled(server, model, start):
    """start() begins a request that takes 5 s and returns how to cancel it: it ends within 2 s of that."""
    before = ended(server, model)
    cancel = start()
    time.sleep(0.3)
    equal(ended(server, model), before, "it did not run")
    cancel()
    wait_for(lambda: ended(server, model) == before + 1, 2, f"{model} was not told")


def grpc_call(server, model, arrays):
    return server.grpc.async_infer(model, tensors(grpcclient, arrays), callback=lambda result, error: None).cancel


@behaviour("L0_request_cancellation", "a model that runs sees gRPC's cancel")
def cancel_grpc(server):
    expect_cancelled(server, "waits", lambda: grpc_call(server, "waits", {"INPUT0": np.zeros([1], np.float32)}))


@behaviour("L0_request_cancellation", "and an HTTP client that goes away (Triton does not tell it)")
def cancel_http(server):
    def start():
        body = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":[1]}]}'
        connection = socket.create_connection(("127.0.0.1", server.ports["http"]))
        connection.sendall(b"POST /v2/models/waits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return connection.close

    expect_cancelled(server, "waits", start)


@behaviour("L0_request_cancellation", "cancelling a request to an ensemble reaches the step that runs")
def cancel_ensemble(server):
    expect_cancelled(server, "waits", lambda: grpc_call(server, "ensemble_waits", {"X": np.zeros([1], np.float32)}))
