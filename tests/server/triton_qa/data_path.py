"""Tensors in, tensors out: datatypes, shapes, strings, special values, validation, optional inputs."""

import json

import numpy as np
import onnx
import onnx.helper as oh
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from harness import IDENTITY, Parallel, Repository, behaviour, equal, refused

TYPES = {"BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16,
         "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}  # fmt: skip
ADD_SUB = ("INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")

CHECK_SHAPE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = request.inputs()[0].as_numpy()
            shape = pb_utils.Tensor("SHAPE", np.array([list(x.shape)], np.int64))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", x), shape]))
        return responses
"""


def add_sub(dtype, swapped, with_rows):
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1, as ONNX; `swapped`: the other way round."""
    shape = ["n", 16] if with_rows else [16]
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = {n: oh.make_tensor_value_info(n, kind, shape) for n in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")}
    outputs = ("OUTPUT1", "OUTPUT0") if swapped else ("OUTPUT0", "OUTPUT1")
    nodes = [oh.make_node(op, ["INPUT0", "INPUT1"], [output]) for op, output in zip(("Add", "Sub"), outputs)]
    graph = oh.make_graph(nodes, "add_sub", [values["INPUT0"], values["INPUT1"]], [values["OUTPUT0"], values["OUTPUT1"]])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8).SerializeToString()


def repository():
    r = Repository()
    for name in ADD_SUB:
        for rows in (False, True):
            model = f"add_sub_{name}" + ("_rows" if rows else "")
            r.config(model, f'backend: "tokamak"\nmax_batch_size: {8 if rows else 0}\nversion_policy {{ all {{}} }}\n')
            for version in (1, 2):
                r.file(f"{model}/{version}/model.onnx", add_sub(TYPES[name], version == 2, rows))
    r.config("policy_latest", 'backend: "tokamak"\n')
    r.config("policy_specific", 'backend: "tokamak"\nversion_policy { specific { versions: [ 1 ] } }\n')
    for model in ("policy_latest", "policy_specific"):
        for version in (1, 3):
            r.file(f"{model}/{version}/model.onnx", add_sub(np.float32, False, False))
    labels = 'label_filename: "labels.txt"'
    r.config("labelled", 'backend: "python"\nmax_batch_size: 4\ninput { name: "INPUT0" data_type: TYPE_FP32 dims: 4 }\n'
             f'output {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: 4 {labels} }}\n')  # fmt: skip
    r.file("labelled/1/model.py", IDENTITY)
    r.file("labelled/labels.txt", "cat\ndog\nbird\nfish\n")
    for name in TYPES:
        r.python(f"identity_{name}", inputs={"INPUT0": (name, [-1, -1])})
    r.python("identity_BYTES", inputs={"INPUT0": ("STRING", [-1])})
    r.python("rows_BYTES", inputs={"INPUT0": ("STRING", [-1])}, max_batch_size=8)
    r.python("variable", inputs={"INPUT0": ("FP32", [-1, 2, -1]), "INPUT1": ("INT32", [-1])}, max_batch_size=8)
    both = {"INPUT0": ("FP32", [4, 3], "reshape { shape: [ 2, 6 ] }")}
    shape = {"SHAPE": ("INT64", [-1])}
    r.python("reshape", inputs=both, outputs={"OUTPUT0": ("FP32", [4, 3], "reshape { shape: [ 2, 6 ] }"), **{"SHAPE": ("INT64", [-1, -1])}}, code=CHECK_SHAPE)
    r.python("reshape_scalar", inputs={"INPUT0": ("FP32", [1], "reshape { shape: [ ] }")}, max_batch_size=8, code=CHECK_SHAPE,
             outputs={"OUTPUT0": ("FP32", [1], "reshape { shape: [ ] }"), **shape})  # fmt: skip
    r.python("reshape_variable", inputs={"INPUT0": ("FP32", [-1, 1, 1], "reshape { shape: [ -1 ] }")}, max_batch_size=8, code=CHECK_SHAPE,
             outputs={"OUTPUT0": ("FP32", [-1, 1, 1], "reshape { shape: [ -1 ] }"), **shape})  # fmt: skip
    r.python("two", inputs={"INPUT0": ("FP32", [2]), "INPUT1": ("FP32", [2])})
    r.python("optional", inputs={"INPUT0": ("FP32", [-1]), "INPUT1": ("FP32", [-1], "optional: true"), "INPUT2": ("FP32", [-1], "optional: true")},
             max_batch_size=8, config="dynamic_batching { max_queue_delay_microseconds: 300000 }\n")  # fmt: skip
    return r


def ramp(dtype, shape):
    count = int(np.prod(shape))
    return (np.arange(count) % 2 == 0).reshape(shape) if dtype == np.bool_ else (np.arange(count) % 50).astype(dtype).reshape(shape)


@behaviour("L0_infer", "sum and difference of every numeric type, both protocols, batch 1 and 8 and none")
def numeric_types(server):
    for client in server.clients:
        for name in ADD_SUB:
            for shape, model in (([16], f"add_sub_{name}"), ([1, 16], f"add_sub_{name}_rows"), ([8, 16], f"add_sub_{name}_rows")):
                a = ramp(TYPES[name], shape)
                b = np.ones(shape, TYPES[name])
                result = server.infer(client, model, {"INPUT0": a, "INPUT1": b}, model_version="1")
                equal(result.as_numpy("OUTPUT0"), a + b, model)
                equal(result.as_numpy("OUTPUT1"), a - b, model)


@behaviour("L0_infer", "a version is what its folder holds: the second one swaps the outputs, and is the one without a version")
def versions(server):
    a, b = ramp(np.int32, [16]), np.ones([16], np.int32)
    for client in server.clients:
        for version, output in (("1", "OUTPUT0"), ("2", "OUTPUT1"), ("", "OUTPUT1")):
            result = server.infer(client, "add_sub_INT32", {"INPUT0": a, "INPUT1": b}, model_version=version)
            equal(result.as_numpy(output), a + b, f"version {version!r}")


@behaviour("L0_infer", "version policies: latest serves only 3, specific only 1; the others are unknown")
def policies(server):
    a = ramp(np.float32, [16])
    for client in server.clients:
        for model, served, other in (("policy_latest", "3", "1"), ("policy_specific", "1", "3")):
            server.infer(client, model, {"INPUT0": a, "INPUT1": a}, model_version=served)
            server.infer(client, model, {"INPUT0": a, "INPUT1": a})
            with refused("unknown model|not found|not available|version"):
                server.infer(client, model, {"INPUT0": a, "INPUT1": a}, model_version=other)


@behaviour("L0_infer", "every datatype through JSON and binary, in and out, in any mix")
def json_and_binary(server):
    for name, dtype in TYPES.items():
        array = ramp(dtype, [2, 5])
        for binary_in in (True, False) if name != "FP16" else (True,):
            for binary_out in (True, False) if name != "FP16" else (True,):
                tensor = httpclient.InferInput("INPUT0", [2, 5], name)
                tensor.set_data_from_numpy(array, binary_data=binary_in)
                result = server.http.infer(f"identity_{name}", [tensor], outputs=[httpclient.InferRequestedOutput("OUTPUT0", binary_data=binary_out)])
                equal(result.as_numpy("OUTPUT0"), array, f"{name} {binary_in} {binary_out}")


@behaviour("L0_infer", "classification: the k largest of each row as value:index:label")
def classification(server):
    x = np.array([[0.1, 0.7, 0.2, 0.0], [9, -1, 3, 4]], np.float32)
    for kind, connection in server.clients:
        tensor = kind.InferInput("INPUT0", [2, 4], "FP32")
        tensor.set_data_from_numpy(x)
        result = connection.infer("labelled", [tensor], outputs=[kind.InferRequestedOutput("OUTPUT0", class_count=2)]).as_numpy("OUTPUT0")
        rows = [[v.decode() if isinstance(v, bytes) else v for v in row] for row in result]
        equal([[v.split(":")[1:] for v in row] for row in rows], [[["1", "dog"], ["2", "bird"]], [["0", "cat"], ["3", "fish"]]])
        assert abs(float(rows[0][0].split(":")[0]) - 0.7) < 1e-6


@behaviour("L0_infer", "only the outputs that are asked for come back; an unknown one is refused by name")
def requested_outputs(server):
    a = ramp(np.float32, [16])
    for client in server.clients:
        result = server.infer(client, "add_sub_FP32", {"INPUT0": a, "INPUT1": a}, outputs=["OUTPUT1"])
        equal(result.as_numpy("OUTPUT1") is None, False)
        equal(result.as_numpy("OUTPUT0"), None)
        with refused("unexpected inference output 'NOTHING'"):
            server.infer(client, "add_sub_FP32", {"INPUT0": a, "INPUT1": a}, outputs=["NOTHING"])


@behaviour("L0_infer_zero", "tensors without elements go through, with and without a batch, both protocols")
def zero_elements(server):
    for client in server.clients:
        for shape in ([0, 3], [3, 0], [0, 0]):
            equal(server.infer(client, "identity_FP32", {"INPUT0": np.zeros(shape, np.float32)}).as_numpy("OUTPUT0").shape, tuple(shape))
        x = {"INPUT0": np.zeros([3, 0, 2, 5], np.float32), "INPUT1": np.zeros([3, 0], np.int32)}
        equal(server.infer(client, "variable", x).as_numpy("OUTPUT0").shape, (3, 0, 2, 5))
        equal(server.infer(client, "identity_BYTES", {"INPUT0": np.array([], np.object_)}).as_numpy("OUTPUT0").shape, (0,))


@behaviour("L0_infer_variable", "variable dims take any size, fixed dims among them only their own")
def variable_dims(server):
    for client in server.clients:
        for a, b in ((1, 1), (7, 3), (2, 100)):
            x = {"INPUT0": ramp(np.float32, [2, a, 2, b]), "INPUT1": ramp(np.int32, [2, 9])}
            result = server.infer(client, "variable", x)
            equal(result.as_numpy("OUTPUT0"), x["INPUT0"])
            equal(result.as_numpy("OUTPUT1"), x["INPUT1"])
        with refused(r"unexpected shape for input 'INPUT0' for model 'variable'. Expected \[-1,-1,2,-1\], got \[2,1,3,1\]"):
            server.infer(client, "variable", {"INPUT0": ramp(np.float32, [2, 1, 3, 1]), "INPUT1": ramp(np.int32, [2, 9])})


@behaviour("L0_infer_variable", "more rows than max_batch_size, and no rows' axis, are refused")
def too_many_rows(server):
    for client in server.clients:
        with refused("batch[- ]size must be <= 8"):
            server.infer(client, "variable", {"INPUT0": ramp(np.float32, [9, 1, 2, 1]), "INPUT1": ramp(np.int32, [9, 1])})
        with refused("unexpected shape"):
            server.infer(client, "variable", {"INPUT0": ramp(np.float32, [1, 2, 1]), "INPUT1": ramp(np.int32, [1, 1])})


@behaviour("L0_infer_reshape", "the model sees the reshaped tensor, the client the shape it sent")
def reshaped(server):
    for client in server.clients:
        x = ramp(np.float32, [4, 3])
        result = server.infer(client, "reshape", {"INPUT0": x})
        equal(result.as_numpy("OUTPUT0"), x)
        equal(result.as_numpy("SHAPE").ravel().tolist(), [2, 6])
        x = ramp(np.float32, [5, 1])
        result = server.infer(client, "reshape_scalar", {"INPUT0": x})
        equal(result.as_numpy("OUTPUT0"), x)
        equal(result.as_numpy("SHAPE").ravel().tolist(), [5])
        x = ramp(np.float32, [2, 7, 1, 1])
        result = server.infer(client, "reshape_variable", {"INPUT0": x})
        equal(result.as_numpy("OUTPUT0"), x)
        equal(result.as_numpy("SHAPE").ravel().tolist(), [2, 7])


@behaviour("L0_string_io", "bytes of any length and content come back as they were: UTF-8, NUL inside, empty, 100,000 of them")
def strings(server):
    for client in server.clients:
        x = np.array(["", "a", "äöü€".encode(), b"nul\0nul", b"\0", b"x" * 100_000], np.object_)
        expected = [v if isinstance(v, bytes) else v.encode() for v in x]
        equal(list(server.infer(client, "identity_BYTES", {"INPUT0": x}).as_numpy("OUTPUT0")), expected)
        many = np.array([str(i).encode() for i in range(100_000)], np.object_)
        equal(server.infer(client, "identity_BYTES", {"INPUT0": many}).as_numpy("OUTPUT0"), many)
        rows = np.array([[b"a", b"bb"], [b"", b"dddd"]], np.object_)
        equal(server.infer(client, "rows_BYTES", {"INPUT0": rows}).as_numpy("OUTPUT0"), rows)


@behaviour("L0_string_io", "a length that runs past the tensor's bytes is refused")
def cut_strings(server):
    for data in (b"\x05\0\0\0abc", b"\x01\0\0", b"\xff\xff\xff\xffa"):
        head = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}]}).encode()
        status, _, body = server.post("/v2/models/identity_BYTES/infer", head + data, {"Inference-Header-Content-Length": str(len(head))})
        equal(status, 400, body)


@behaviour("L0_nan_inf", "NaN and both infinities, binary and JSON, in and out")
def special_values(server):
    for name in ("FP32", "FP64"):
        x = np.array([[np.nan, np.inf, -np.inf, 0.5]], TYPES[name])
        for client in server.clients:
            equal(server.infer(client, f"identity_{name}", {"INPUT0": x}).as_numpy("OUTPUT0"), x)
        status, _, body = server.post(f"/v2/models/identity_{name}/infer", '{"inputs":[{"name":"INPUT0","datatype":"%s","shape":[1,4],"data":[NaN,Infinity,-Infinity,0.5]}]}' % name)
        equal(status, 200, body)
        equal(np.array(json.loads(body)["outputs"][0]["data"], TYPES[name]).reshape(1, 4), x)


@behaviour("L0_input_validation", "a missing input, one too many, the same twice: refused, each by name")
def wrong_inputs(server):
    x = ramp(np.float32, [2])
    for client in server.clients:
        with refused("expected 2 inputs but got 1 inputs for model 'two'.*INPUT1"):
            server.infer(client, "two", {"INPUT0": x})
        with refused("unexpected inference input 'INPUT2' for model 'two'|expected 2 inputs but got 3"):
            server.infer(client, "two", {"INPUT0": x, "INPUT1": x, "INPUT2": x})
        kind, connection = client
        with refused("INPUT0"):
            connection.infer("two", tensors_twice(kind, x))


def tensors_twice(kind, x):
    tensor = kind.InferInput("INPUT0", [2], "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor, tensor]


@behaviour("L0_input_validation", "another datatype, rank or size than the model's is refused and says both")
def wrong_shapes(server):
    x = ramp(np.float32, [2])
    for client in server.clients:
        with refused("data-type is 'INT32', but model 'two' expects 'FP32'"):
            server.infer(client, "two", {"INPUT0": x.astype(np.int32), "INPUT1": x})
        with refused(r"unexpected shape for input 'INPUT1' for model 'two'. Expected \[2\], got \[3\]"):
            server.infer(client, "two", {"INPUT0": x, "INPUT1": ramp(np.float32, [3])})
        with refused(r"Expected \[2\], got \[2,1\]"):
            server.infer(client, "two", {"INPUT0": x.reshape(2, 1), "INPUT1": x})


@behaviour("L0_input_validation", "bytes that are not what the shape needs are refused, with both counts")
def wrong_bytes(server):
    for size in (4, 12, 0):
        head = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}},
                                      {"name": "INPUT1", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}).encode()  # fmt: skip
        status, _, body = server.post("/v2/models/two/infer", head + b"\0" * size, {"Inference-Header-Content-Length": str(len(head))})
        equal(status, 400, body)
        assert b"2 elements of 4 bytes" in body and b"found %d bytes" % size in body and b"INPUT0" in body, body
    tensor = grpcclient.InferInput("INPUT0", [2], "FP32")
    tensor._raw_content = b"1234"
    other = grpcclient.InferInput("INPUT1", [2], "FP32")
    other.set_data_from_numpy(ramp(np.float32, [2]))
    with refused("4|8"):
        server.grpc.infer("two", [tensor, other])


@behaviour("L0_input_validation", "an empty request and an unknown model are refused")
def empty_request(server):
    for body in ({}, {"inputs": []}):
        status, _, data = server.post("/v2/models/two/infer", body)
        equal(status, 400, data)
    for client in server.clients:
        with refused("unknown model: 'nothing'|'nothing' is not found"):
            server.infer(client, "nothing", {"INPUT0": ramp(np.float32, [2])})


@behaviour("L0_optional_input", "optional inputs may be missing; a required one may not")
def optional_inputs(server):
    x = ramp(np.float32, [1, 3])
    for client in server.clients:
        for names in (("INPUT0",), ("INPUT0", "INPUT1"), ("INPUT0", "INPUT1", "INPUT2")):
            kind, connection = client
            outputs = [n.replace("IN", "OUT", 1) for n in names]
            result = server.infer(client, "optional", {n: x for n in names}, outputs=outputs)
            for output in outputs:
                equal(result.as_numpy(output), x)
        with refused("INPUT0"):
            server.infer(client, "optional", {"INPUT1": x, "INPUT2": x})


@behaviour("L0_optional_input", "requests share a batch only with the same set of optional inputs")
def optional_batches(server):
    x = ramp(np.float32, [1, 3])
    before = server.statistics("optional")["execution_count"]

    def call(names):
        return lambda: server.infer(server.clients[0], "optional", {n: x for n in names}, outputs=[n.replace("IN", "OUT", 1) for n in names])

    results = Parallel([call(("INPUT0",)), call(("INPUT0",)), call(("INPUT0", "INPUT1")), call(("INPUT0", "INPUT1"))], gap_s=0.03).results()
    assert not any(isinstance(r, Exception) for r in results), results
    equal(server.statistics("optional")["execution_count"] - before, 2)
