"""Replaces the ConstantOfShape weights of the ONNX suite's `light` models with random ones of realistic size.

Convolutions and matrix products get He-scaled normals (He et al. 2015), normalisations scales near 1 and positive variances, so that activations
neither vanish nor overflow and no kernel profits from constants. Usage: make_random_weights.py IN.onnx OUT.onnx
"""
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper


def random_for(shape, op, position, rng):
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    if op in ("Conv", "Gemm", "MatMul") and position == 1:
        return rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
    if op == "BatchNormalization":
        low, high = {1: (0.8, 1.2), 2: (-0.1, 0.1), 3: (-0.1, 0.1), 4: (0.5, 1.5)}[position]
        return rng.uniform(low, high, shape)
    if op in ("Mul", "Unsqueeze"):
        return rng.uniform(0.8, 1.2, shape)
    return rng.uniform(-0.1, 0.1, shape)


def convert(source, target, seed=1):
    model = onnx.load(source)
    graph = model.graph
    rng = np.random.default_rng(seed)
    known = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    users = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            users.setdefault(name, []).append((node.op_type, position))
    replaced = 0
    for node in list(graph.node):
        if node.op_type != "ConstantOfShape" or node.input[0] not in known:
            continue
        name = node.output[0]
        op, position = users.get(name, [("", 0)])[0]
        weight = random_for(tuple(int(d) for d in known[node.input[0]]), op, position, rng).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, name))
        graph.node.remove(node)
        replaced += 1
    calm_softmax(model)
    onnx.save(model, target)
    return replaced


def calm_softmax(model):
    """Scales the weight in front of a final Softmax so that its input has standard deviation 1: a saturated one would hide every error."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    softmax = next((node for node in graph.node if node.op_type == "Softmax"), None)
    if softmax is None:
        return
    node = producers[softmax.input[0]]
    while node.op_type not in ("Conv", "Gemm", "MatMul"):
        node = producers[node.input[0]]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    item = session.get_inputs()[0]
    noise = np.random.default_rng(2).standard_normal(item.shape).astype(np.float32)
    spread = float(np.std(session.run([softmax.input[0]], {item.name: noise})[0]))
    for i, initializer in enumerate(graph.initializer):
        if initializer.name in node.input[1:3] and spread > 0:
            graph.initializer[i].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(initializer) / np.float32(spread), initializer.name))


if __name__ == "__main__":
    print(convert(sys.argv[1], sys.argv[2]), "weights replaced")
