"""What jobs of many pictures take: `python docs/job_cases.py CASE` prints rows of the tables in nbs/19_jobs.ipynb.

    memory [N [MEGAPIXELS [OPTION...]]]   memory of `skysky mask OPTION...` over N pictures, first minute against last
    rate [N]                              `skysky bench`'s folder row, of N photos, beside a job with table and record
    start [NAMES]                         seconds to the first mask of a list and of a folder, and of processor time
    child                                 decoding in a process of its own, beside decoding in place

Everything is made in a temporary folder, and each case is one run; MB are of 10⁶ bytes."""
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from skysky import Segmenter, read_image
from skysky.measure.limits import Task, interleave, jpeg_bytes, rendered_photo
from skysky.measure.timings import Effort, time_folder, time_starts
from skysky.outputs import write_mask
from skysky.processor import usable_threads
from skysky.trial import Trial

MINUTE = 60.  # s


def pictures(folder: Path, n: int, megapixels: float) -> Path:
    "A folder with N pictures of one size, 3:2; of 8 kinds, each linked to many names, which takes no space."
    width = round((1e6*megapixels*3/2)**.5)
    kinds = [jpeg_bytes(rendered_photo(i, width*2//3, width)) for i in range(min(n, 8))]
    for i in range(n):
        path = folder/f"{i//1000:03}"/f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < len(kinds): path.write_bytes(kinds[i])
        else: os.link(folder/"000"/f"{i % len(kinds):06}.jpg", path)
    return folder


def job(*args) -> subprocess.Popen:
    "`skysky mask` as a program sees it: a line of JSON a picture."
    command = [sys.executable, "-m", "skysky", "mask", *map(str, args), "--json", "-q"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def done(process: subprocess.Popen) -> Iterator[float]:  # s, on the clock of `time.perf_counter`
    "When each picture of a job was done. `SystemExit` when the job fails."
    for line in process.stdout:
        if "path" in json.loads(line): yield time.perf_counter()
    if process.wait(): raise SystemExit(f"the job ended with status {process.returncode}")


def resident(pid: int) -> float:  # MB
    "Memory of a process; Linux alone says it."
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])*os.sysconf("SC_PAGE_SIZE")/1e6


def memory(n: str = "10000", megapixels: str = "0.02", *options: str):
    with TemporaryDirectory() as tmp:
        folder, start = pictures(Path(tmp, "in"), int(n), float(megapixels)), time.perf_counter()
        process = job(folder, "-o", f"{tmp}/out", "--csv", f"{tmp}/t.csv", *options)
        seen = [(t, resident(process.pid)) for t in done(process)]
    first, last = seen[0][0], seen[-1][0]
    begun = [mb for t, mb in seen if t < first + MINUTE]
    ended = [mb for t, mb in seen if t > last - MINUTE]
    print(f"| {len(seen):,} of {float(megapixels):g} megapixels | {last - start:.0f} | {np.median(begun):.0f} "
          f"| {np.median(ended):.0f} | {max(mb for _, mb in seen):.0f} |")


def rate(n: str = "60"):
    threads, effort = usable_threads(), Effort(passes=1, starts=3)
    seg = Segmenter()
    rows, jobs = [], []
    with TemporaryDirectory() as tmp:
        start = time_starts([], threads, effort, Path(tmp))["first mask"].ms/1e3
        for turn in map(str, range(3)):
            folder = Path(tmp, turn)
            folder.mkdir()
            rows.append(time_folder(seg.card.name, seg.size, [], start, int(n), threads, effort, folder).mask.rate)
            times = list(done(job(folder/"more", "-o", folder/"out", "--csv", folder/"t.csv")))
            jobs.append((len(times) - 1)/(times[-1] - times[0]))
    ratios = np.array(jobs)/rows
    print(f"| {n} photos by `skysky bench` | {np.median(rows):.2f} | |\n| {4*int(n)} in a job with table and record "
          f"| {np.median(jobs):.2f} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |")


def start(names: str = "100000"):
    with TemporaryDirectory() as tmp:
        folder = pictures(Path(tmp, "in"), int(names), .02)
        Path(tmp, "one").write_text(f"{folder}/000/000000.jpg\n")
        Path(tmp, "list").write_text("".join(f"{path}\n" for path in sorted(folder.rglob("*.jpg"))))
        for what, source in ("one name", f"@{tmp}/one"), (f"{int(names):,} names", f"@{tmp}/list"), (
                f"a folder of {int(names):,}", folder):
            seconds, work = [], []
            for i in range(3):
                begun = time.perf_counter()
                process = job(source, "-o", f"{tmp}/{what}{i}")
                seconds.append(next(done(process)) - begun)
                process.kill()
                _, process.returncode, usage = os.wait4(process.pid, 0)
                work.append(usage.ru_utime + usage.ru_stime)
            print(f"| {what} | {np.median(seconds):.2f} | {np.median(work):.2f} |")


def decode_there(pipe, room: str):
    "What the process of its own does: pictures into a memory that is shared."
    memory = SharedMemory(room)
    for path in iter(pipe.recv, None):
        img = read_image(path)
        np.ndarray(img.shape, np.uint8, memory.buf)[:] = img
        pipe.send(img.shape)
    memory.close()


def child():
    here, there = multiprocessing.Pipe()
    memory = SharedMemory(create=True, size=100_000_000)
    process = multiprocessing.get_context("spawn").Process(target=decode_there, args=(there, memory.name))
    process.start()
    seg = Segmenter()

    def decoded_there(path):
        here.send(path)
        return np.ndarray(here.recv(), np.uint8, memory.buf).copy()  # the room is wanted for the next one

    def whole(path): write_mask(seg(path), path.with_suffix(".png"))

    try:
        with TemporaryDirectory() as tmp:
            for megapixels in 2, 12, 24:
                path = next(pictures(Path(tmp, str(megapixels)), 1, megapixels).rglob("*.jpg"))
                tasks = {"in place": read_image, "there": decoded_there, "whole": whole}
                ms = {k: t.ms for k, t in interleave({k: Task(partial(f, path)) for k, f in tasks.items()}).items()}
                more = ms["there"] - ms["in place"]
                print(f"| {megapixels} | {ms['in place']:.0f} | {ms['there']:.0f} | {more/ms['in place']:+.0%} "
                      f"| {more/ms['whole']:+.0%} |")
            begun = time.perf_counter()
            with Trial() as trial: trial(path)
            print(f"the trial of a picture of 24 megapixels: {time.perf_counter() - begun:.2f} s")
    finally:
        here.send(None)
        process.join()
        memory.close()
        memory.unlink()


if __name__ == "__main__":
    cases = {case.__name__: case for case in (memory, rate, start, child)}
    if len(sys.argv) < 2 or sys.argv[1] not in cases: raise SystemExit(__doc__)
    cases[sys.argv[1]](*sys.argv[2:])
