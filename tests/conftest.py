"What tests of several files use."
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    "A model whose answers are known: blue is sky."
    folder = tmp_path_factory.mktemp("models")
    consts = {"weights": np.float32([[-.1], [0], [.1]]), "offset": np.float32(-2), "last": np.int64([-1])}
    nodes = [helper.make_node("Cast", ["img"], ["rgb"], to=TensorProto.FLOAT),
             helper.make_node("MatMul", ["rgb", "weights"], ["score"]),
             helper.make_node("Squeeze", ["score", "last"], ["flat"]),
             helper.make_node("Add", ["flat", "offset"], ["logit"]),
             helper.make_node("Sigmoid", ["logit"], ["prob"])]
    graph = helper.make_graph(nodes, "sky",
                              [helper.make_tensor_value_info("img", TensorProto.UINT8, ["n", "h", "w", 3])],
                              [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["n", "h", "w"])],
                              [numpy_helper.from_array(v, k) for k, v in consts.items()])
    file = folder/"blue.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file
