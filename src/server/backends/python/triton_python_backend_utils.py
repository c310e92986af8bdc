"""What a model.py imports: tensors, requests, responses and the model's configuration.

The names are those of Triton's Python backend, so that its models run unchanged; the code is Tokamak's. Needs numpy.
"""

import json
import struct
import sys

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2

_NUMPY_OF = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_, "STRING": np.object_,
}  # fmt: skip


def _plain(name):
    return name[5:] if name.startswith("TYPE_") else name


def triton_string_to_numpy(name):
    """The numpy type of "TYPE_FP32" (or "FP32"); BF16 has none and travels as its 16 bits."""
    name = _plain(name)
    return np.uint16 if name == "BF16" else _NUMPY_OF[name]


def numpy_to_triton_string(dtype):
    dtype = np.dtype(dtype)
    if dtype.name == "bfloat16":
        return "BF16"
    if dtype.kind in "OSU":
        return "BYTES"
    for name, own in _NUMPY_OF.items():
        if np.dtype(own) == dtype:
            return name
    raise TritonModelException(f"numpy type {dtype} is none that a client can receive")


def numpy_to_triton_type(dtype):
    return numpy_to_triton_string(dtype)


def triton_to_np_dtype(name):
    return triton_string_to_numpy(name)


def serialize_byte_tensor(array):
    """Elements in row-major order, a 32-bit length before each."""
    parts = []
    for item in np.asarray(array).ravel():
        data = item if isinstance(item, bytes) else str(item).encode("utf-8")
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)


def deserialize_bytes_tensor(data):
    items, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        items.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


class TritonModelException(Exception):
    """What a model raises for a request that it cannot answer."""


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message, code=INTERNAL):
        self._message, self._code = str(message), code

    def message(self):
        return self._message

    def code(self):
        return self._code


class Tensor:
    def __init__(self, name, array):
        if not isinstance(array, np.ndarray):
            raise TritonModelException(f"tensor '{name}' must be made of a numpy array, not of {type(array).__name__}")
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array

    def shape(self):
        return list(self._array.shape)

    def triton_dtype(self):
        return "TYPE_STRING" if self._array.dtype.kind in "OSU" else "TYPE_" + numpy_to_triton_string(self._array.dtype)

    def is_cpu(self):
        return True

    def to_dlpack(self):
        return self._array.__dlpack__()

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    @staticmethod
    def from_dlpack(name, tensor):
        if hasattr(tensor, "detach"):  # of PyTorch, perhaps on a GPU
            tensor = tensor.detach().cpu()
        return Tensor(name, np.from_dlpack(tensor))


class InferenceResponse:
    def __init__(self, output_tensors=None, error=None, parameters=None):
        self._outputs, self._error = list(output_tensors or []), error
        self._parameters = parameters if isinstance(parameters, dict) else json.loads(parameters or "{}")

    def output_tensors(self):
        return self._outputs

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error

    def parameters(self):
        return json.dumps(self._parameters)


class InferenceRequest:
    """A request as execute() gets it; its arrays are valid until execute() returns, of a decoupled model until its final response."""

    def __init__(self, fields, inputs, sender, flags):
        self._fields, self._inputs, self._sender, self._flags = fields, inputs, sender, flags
        self._release_flags = TRITONSERVER_REQUEST_RELEASE_ALL

    def inputs(self):
        return self._inputs

    def request_id(self):
        return self._fields["id"]

    def correlation_id(self):
        return self._fields["correlation_text"] or self._fields["correlation_id"]

    def flags(self):
        return self._fields["flags"]

    def timeout(self):
        return self._fields["timeout_us"]

    def priority(self):
        return self._fields["priority"]

    def requested_output_names(self):
        return self._fields["outputs"]

    def parameters(self):
        return json.dumps(self._fields["parameters"])

    def get_response_sender(self):
        return self._sender

    def set_release_flags(self, flags):
        """TRITONSERVER_REQUEST_RELEASE_RESCHEDULE: an iterative model gets the request again; its response of this execution is None."""
        if flags not in (TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_REQUEST_RELEASE_RESCHEDULE):
            raise TritonModelException(f"{flags} is neither TRITONSERVER_REQUEST_RELEASE_ALL nor TRITONSERVER_REQUEST_RELEASE_RESCHEDULE")
        self._release_flags = flags

    def _is_rescheduled(self):
        return self._release_flags == TRITONSERVER_REQUEST_RELEASE_RESCHEDULE

    def is_cancelled(self):
        return self._flags[self._fields["slot"]] != 0


class ModelConfig:
    """What auto_complete_config() changes: the configuration as a dict, named as in config.pbtxt."""

    def __init__(self, config):
        self._config = config

    def as_dict(self):
        return self._config

    def _add(self, kind, io):
        for key in ("name", "data_type", "dims"):
            if key not in io:
                raise ValueError(f"an {kind} needs '{key}'")
        for own in self._config.setdefault(kind, []):
            if own["name"] == io["name"]:
                if own.get("data_type", "TYPE_INVALID") not in ("TYPE_INVALID", io["data_type"]):
                    raise ValueError(f"{kind} '{io['name']}' has the type {own['data_type']} in the configuration, the model says {io['data_type']}")
                if own.get("dims") and list(own["dims"]) != list(io["dims"]):
                    raise ValueError(f"{kind} '{io['name']}' has the dims {own['dims']} in the configuration, the model says {io['dims']}")
                own.update(io)
                return
        self._config[kind].append(dict(io))

    def add_input(self, io):
        self._add("input", io)

    def add_output(self, io):
        self._add("output", io)

    def set_max_batch_size(self, size):
        own = self._config.get("max_batch_size", 0)
        if own and own < size:
            raise ValueError(f"the configuration's max_batch_size is {own}, the model says {size}")
        self._config["max_batch_size"] = own or size

    def set_dynamic_batching(self):
        if not any(key in self._config for key in ("sequence_batching", "ensemble_scheduling")):
            self._config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, policy):
        self._config["model_transaction_policy"] = dict(policy)


def get_input_tensor_by_name(request, name):
    return next((t for t in request.inputs() if t.name() == name), None)


def get_output_tensor_by_name(response, name):
    return next((t for t in response.output_tensors() if t.name() == name), None)


def get_input_config_by_name(config, name):
    return next((io for io in config.get("input", []) if io["name"] == name), None)


def get_output_config_by_name(config, name):
    return next((io for io in config.get("output", []) if io["name"] == name), None)


def using_decoupled_model_transaction_policy(config):
    return bool(config.get("model_transaction_policy", {}).get("decoupled", False))


class Logger:
    """Lines of the server's log; it takes them from standard error."""

    @staticmethod
    def log(message, level=None):
        print(message, file=sys.stderr, flush=True)

    log_info = log_warn = log_error = log_verbose = log
