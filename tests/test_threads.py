"Threads are an argument: what one use asks for, no other one gets, and the process is left as it was."
import os
import subprocess
import sys
import threading
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from skysky import video
from skysky.engines import open_engine
from skysky.frames import video_frame
from skysky.processor import usable_threads
from skysky.segment import Segmenter
from skysky.video import segment_video, video_segmenter
from skysky.write_video import VideoWriter

pytestmark = pytest.mark.alone  # counts threads

HERE = "skysky.engines.os.sched_getaffinity" if hasattr(os, "sched_getaffinity") else "skysky.engines.os.cpu_count"


def of_process(): return dict(os.environ), torch.get_num_threads(), cv2.getNumThreads()


@pytest.fixture
def clip(tmp_path):
    with VideoWriter(tmp_path/"clip.mp4") as file:
        for i in range(12):
            img = np.full((96, 128, 3), (110, 110, 110), np.uint8)
            img[:40 + i] = (80, 140, 220)
            file.write(video_frame(img, i, Fraction(1, 25)))
    return tmp_path/"clip.mp4"


@pytest.fixture
def sixteen(monkeypatch):
    "A machine of 16 cores, of which nothing is said."
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(HERE, lambda *pid: set(range(16)) if pid else 16)
    assert usable_threads() == 16


@pytest.fixture
def noted(monkeypatch):
    "The threads of the encoders that `segment_video` opens."
    found = []

    class Noted(VideoWriter):
        def write(self, frame):
            super().write(frame)
            found.append(self._stream.codec_context.thread_count)

    monkeypatch.setattr(video, "VideoWriter", Noted)
    return found


def test_two_videos_at_once(clip, tmp_path, noted):
    before, failed = of_process(), []

    def run(threads):
        try: segment_video(clip, tmp_path/f"{threads}.mp4", threads=threads)
        except BaseException as e: failed.append(e)

    uses = [threading.Thread(target=run, args=(n,), daemon=True) for n in (2, 8, 4)]
    for use in uses: use.start()
    for use in uses: use.join(120)
    assert not failed and not any(use.is_alive() for use in uses) and sorted({*noted}) == [1, 2, 4]
    assert of_process() == before


def test_encoder_and_model_have_half_of_the_cores_each(clip, tmp_path, sixteen, noted):
    seg = video_segmenter(precision="f32", engine="onnxruntime")
    assert seg.engine.threads == 8
    segment_video(clip, tmp_path/"sky.mp4", seg)
    assert {*noted} == {8}


def test_omp_num_threads_is_the_default(clip, tmp_path, sixteen, noted, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    seg = video_segmenter(precision="f32", engine="onnxruntime")
    segment_video(clip, tmp_path/"sky.mp4", seg)
    assert (seg.engine.threads, {*noted}) == (2, {2})
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_torch_engines_that_overlap_leave_torch_as_it_was():
    model, img = Segmenter().card.path, np.zeros((1, 64, 96, 3), np.uint8)
    before, seen = of_process(), {}

    def run(n):
        engine = open_engine(model, "cpu", "f32", "torch", threads=n)
        graph = engine._graph
        engine._graph = lambda x: (seen.setdefault(n, set()).add(torch.get_num_threads()), graph(x))[1]
        for _ in range(5): engine(img)

    uses = [threading.Thread(target=run, args=(n,), daemon=True) for n in (1, 2, 3)]
    for use in uses: use.start()
    for use in uses: use.join(120)
    assert seen == {1: {1}, 2: {2}, 3: {3}}
    assert of_process() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be bound to a core here")
def test_cores_that_a_process_may_run_on_are_the_default():
    code = """import os
os.environ.pop("OMP_NUM_THREADS", None)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from skysky.engines import ENGINES, open_engine
from skysky.processor import usable_threads
from skysky.weights import model_path
print(usable_threads(), *(open_engine(model_path("mosaic"), "cpu", "f32", e).threads for e in ENGINES["cpu"]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]*4


def test_readers_of_a_folder_are_as_many_as_asked_for(sixteen):
    seg, imgs, names = Segmenter(size=32, precision="f32", threads=3), [np.zeros((32, 32, 3), np.uint8)]*40, set()

    def finish(source, img, sky, seconds): names.add(threading.current_thread().name)

    for threads, most in ((None, 3), (1, 1)):
        names.clear()
        for _, result in seg.each(imgs, finish, threads=threads): assert result is None
        assert 1 <= len(names) <= most
