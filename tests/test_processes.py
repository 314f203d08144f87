"A training that two processes share: the losses of one, parts that make the whole, killed and gone on with by one."
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.alone  # two trainings

CONFIG = """
data: [{scenes: 40}]
valid: [{scenes: 11, seed: 1000}]
arch: mosaic
weights: none
tfms: strong
size: [64, 64]
load_size: [64, 96]
fit: crop
bs: 4
epochs: 2
lr: 1.0e-4
schedule: one_cycle
dice_weight: 0.5
edge_weight: 1
average: 0.9
amp: "off"
"""

# Trains in float64, and writes what each process drew and the loss of each step; ends by SIGKILL after step `kill`.
RUN = """
import json, os, signal, sys
from fastai.callback.core import Callback
from skysky.train.config import load_config
from skysky.train.learner import sky_learner, train

config, out, log, kill, *resume = sys.argv[1:]

class Note(Callback):
    order = 90  # after what keeps the run
    def before_fit(self):
        self.recorder.smooth_loss.val = self.recorder.smooth_loss.val.double()
        self.steps = self.epoch_seed.start[0]*len(self.dls.train) + self.epoch_seed.start[1]
    def before_train(self): self.draws = self.dls.train.get_idxs()
    def before_batch(self): self.learn.xb = (self.x.double(),)
    def after_batch(self):
        if not self.training: return
        self.steps += 1
        n = self.dls.train.bs
        with open(f"{log}.{os.environ.get('RANK', 0)}", "a") as f:
            f.write(json.dumps([self.steps, self.loss.item(), self.draws[self.iter*n:][:n]]) + "\\n")
        if self.steps == int(kill) and os.environ.get("RANK") == "0": os.kill(os.getpid(), signal.SIGKILL)

learn = sky_learner(config := load_config(config), "cpu", say=lambda _: None)
learn.add_cb(Note())
learn.model.double()  # float32 rounds so much that after 20 steps the losses of two runs differ by thousandths
train(config, out, bool(resume), "cpu", minutes=0, learn=learn)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder/"config.yaml").write_text(CONFIG)
    (folder/"run.py").write_text(RUN)
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launched(processes, *args):
    "`accelerate launch` on `processes` of this CPU; one of them needs no launcher."
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
                  "--dynamo_backend", "no", "--num_processes", str(processes), "--main_process_port", str(free_port())]
    return subprocess.run([*start, *map(str, args)], capture_output=True, text=True, timeout=540)


def trained(place, name, processes, kill=0, resume=False):
    "Steps of a run: of each process, its rows (step, loss, draws)."
    done = launched(processes, place/"run.py", place/"config.yaml", place/name, place/f"{name}.log", kill,
                    *["resume"]*resume)
    assert kill or done.returncode == 0, done.stderr[-3000:]
    return done, [rows(place/f"{name}.log.{rank}") for rank in range(processes)]


def rows(path: Path): return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def one(place): return trained(place, "one", 1)[1][0]


def test_two_processes_learn_what_one_does(place, one):
    done, (first, second) = trained(place, "two", 2)
    assert [row[0] for row in one] == [row[0] for row in first] == [*range(1, 21)]
    assert [row[1] for row in first] == [row[1] for row in second], "each process has the loss of the whole batch"
    losses = np.array([[a[1], b[1]] for a, b in zip(one, first, strict=True)])
    print(losses)
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-6)
    assert losses[:, 0].std() > .01*losses[:, 0].mean(), "losses that are all alike would prove nothing"
    for whole, a, b in zip(one, first, second, strict=True):
        assert whole[2] == a[2] + b[2] and not {i for _, i, _ in a[2]} & {i for _, i, _ in b[2]}
    tables = [[line.split(",") for line in (place/run/"history.csv").read_text().split()] for run in ("one", "two")]
    assert tables[0][0] == tables[1][0]
    np.testing.assert_allclose(*(np.array(table[1:], float) for table in tables), rtol=1e-4, atol=1e-6)
    assert done.stdout.count("valid_loss") == 1 and done.stdout.count("Epoch 1/2 : |---") <= 2, "one process speaks"


def test_a_killed_run_goes_on_in_one_process(place, one):
    killed, (first, _) = trained(place, "killed", 2, kill=13)
    assert killed.returncode and "SIGKILL" in killed.stderr and len(first) == 13
    assert not (place/"killed"/"history.csv").exists() or len((place/"killed"/"history.csv").read_text().split()) == 2
    _, (both,) = trained(place, "killed", 1, resume=True)
    assert [row[0] for row in both] == [*range(1, 21)], "the steps after the thirteenth, each once"
    assert [row[2] for row in both[13:]] == [row[2] for row in one[13:]]
    np.testing.assert_allclose([row[1] for row in both], [row[1] for row in one], rtol=1e-6)
    history = (place/"killed"/"history.csv").read_text().split()
    assert len(history) == 3


@pytest.mark.parametrize(("change", "line"), [
    ("bs=3", "skysky: config key 'bs': 3 images are no equal parts for 2 processes"),
    ("arch=fcn_resnet50", "skysky: config key 'arch': this network has batch statistics")])
def test_a_wrong_setup_is_said_in_one_line(place, change, line):
    done = launched(2, "--module", "skysky", "train", place/"config.yaml", "-o", place/"wrong", "--device", "cpu",
                    "--set", change)
    said = [text for text in done.stderr.splitlines() if text.startswith("skysky:")]
    assert done.returncode and len(said) == 1 and said[0].startswith(line), done.stderr[-3000:]
    assert not (place/"wrong").exists()
