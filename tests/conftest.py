"""What tests of several files use; and that none waits for ever.

What a test waits for is nearly always a process: a command, a browser, a server. When a test has had its time, all
processes that it started are killed, so that whatever waits for them fails; after each file, none of them is left."""
import os
import threading
from contextlib import suppress
from multiprocessing import resource_tracker

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

LIMIT = 240  # s for a test, set-up and tear-down included; `@pytest.mark.timeout(s)` gives one more
MARK = "SKYSKY_TESTS"  # variable that every process of a run inherits, also one whose parent is gone
os.environ[MARK] = str(os.getpid())
LATE = pytest.StashKey[float]()


def started():
    "The processes that this one started, those that they started, and so on."
    me = psutil.Process()
    found = {*me.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(me.pid): found.add(process)
    return [p for p in found if p.pid not in (me.pid, resource_tracker._resource_tracker._pid)]


def kill(processes):
    for process in processes:
        with suppress(psutil.Error): process.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    own = item.get_closest_marker("timeout")
    seconds = .8*own.args[0] if own else LIMIT

    def end():
        item.stash[LATE] = seconds
        kill(started())

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try: return (yield)
    finally:
        timer.cancel()
        if nextitem is None or nextitem.path != item.path:
            kill(left := started())
            psutil.wait_procs(left, 10)


@pytest.fixture(autouse=True)
def in_time(request):
    "A test whose processes were killed has failed, whatever it made of that."
    yield
    late = request.node.stash.get(LATE, None)
    assert not late, f"not done in {late:g} s: its processes were killed"


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
