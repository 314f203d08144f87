"""An archive on a Ray cluster: the bytes of `skysky mask`, whatever happens to a machine.

SKYSKY_TEST_CLUSTER=N also masks N pictures on two nodes, of which one is killed five times, and compares the rate."""
import csv
import json
import os
import random
import re
import socket
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
import yaml

from skysky import Segmenter
from skysky.commands.cluster import mask_cluster
from skysky.core import SkyError
from skysky.jobs import mask_folder
from skysky.write_images import write_image

pytestmark = pytest.mark.alone  # two nodes

pytest.importorskip("ray", reason="needs the extra cluster")
pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
SIZE, SKYSKY = 64, [sys.executable, "-m", "skysky"]
CONFIG = Path(__file__).parent.parent/"config"
MANY = int(os.environ.get("SKYSKY_TEST_CLUSTER", 0))


def pictures(folder, n):
    "Pictures of two shapes, and a damaged one."
    rng = np.random.default_rng(0)
    for i in range(n):
        write_image(rng.integers(0, 255, ((48, 64)[i % 2], 64, 3), dtype=np.uint8), folder/f"{i % 10}/{i:05}.jpg")
    (folder/"bad.jpg").write_text("no picture")


def masks(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def paths(folder, table="sky"): return sorted(pq.read_table(folder/table)["path"].to_pylist())


def test_same_bytes_and_resume(tmp_path):
    pictures(tmp_path/"in", 6)
    mask_folder(tmp_path/"in", tmp_path/"one", Segmenter(size=SIZE))
    def run(*more):
        command = [*SKYSKY, "cluster", "mask", "in", "-o", "many", "--size", str(SIZE), *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    first = run()
    assert first.returncode == 1 and "bad.jpg: not a picture" in first.stderr and "6 done" in first.stdout, first.stderr
    assert masks(tmp_path/"many") == masks(tmp_path/"one")
    assert len(paths(tmp_path/"many")) == 7
    again = run("--resume")  # what is settled costs no cluster
    assert (again.returncode, again.stderr) == (0, "") and "0 done" in again.stdout, again.stderr
    assert "7 already there" in again.stdout
    assert len(paths(tmp_path/"many")) == 7 and not (tmp_path/"many/.skysky-names").exists()


def test_shards_and_resume(tmp_path):
    "A WebDataset of two tar files, one of them damaged and mended: the masks of its pictures."
    pictures(tmp_path/"in", 6)
    mask_folder(tmp_path/"in", tmp_path/"one", Segmenter(size=SIZE))
    (tmp_path/"shards").mkdir()
    names = sorted(p.relative_to(tmp_path/"in").as_posix() for p in (tmp_path/"in").rglob("*.jpg"))
    for shard in range(2):
        with tarfile.open(tmp_path/f"shards/{shard}.tar", "w") as tar:
            for name in names[shard::2]: tar.add(tmp_path/"in"/name, name)
    whole = (tmp_path/"shards/1.tar").read_bytes()
    (tmp_path/"shards/1.tar").write_bytes(b"cut off")
    def run(*more):
        command = [*SKYSKY, "cluster", "mask", "shards", "-o", "many", "--shards", "--size", str(SIZE), *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    first = run()
    assert first.returncode == 1 and "1.tar: damaged" in first.stderr and "3 done" in first.stdout, first
    (tmp_path/"shards/1.tar").write_bytes(whole)
    again = run("--resume")
    assert again.returncode == 0 and "3 done" in again.stdout and "1 already there" in again.stdout, again
    found = {}
    for shard in (tmp_path/"many").glob("*.tar"):
        with tarfile.open(shard) as tar: found |= {m.name: tar.extractfile(m).read() for m in tar}
    assert found == {name.replace("_mask", ".mask"): mask for name, mask in masks(tmp_path/"one").items()}


def test_the_scores_of_a_set(tmp_path):
    "The report of `skysky evaluate`, but for the times; a run goes on by what has been scored."
    rng = np.random.default_rng(0)
    for i in range(12):
        write_image(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), tmp_path/f"set/images/{i}.png")
        write_image(np.repeat([[255], [0]], (8 + i, 40 - i), 0).repeat(64, 1).astype(np.uint8),
                    tmp_path/f"set/masks/{i}.png")
    (tmp_path/"set/images/3.png").write_text("no picture")
    def run(*command):
        return subprocess.run([*SKYSKY, *command, "--size", str(SIZE)], cwd=tmp_path, capture_output=True, text=True)
    def scores(out):
        with open(tmp_path/out/"per_image.csv") as f: rows = list(csv.DictReader(f))
        summary = json.loads((tmp_path/out/"summary.json").read_text())
        return [{k: v for k, v in row.items() if k != "ms"} for row in rows], summary["calibration_error"]
    one = run("evaluate", "set", "-o", "one")
    many = run("cluster", "evaluate", "set", "-o", "many")
    assert (one.returncode, many.returncode) == (1, 1), many.stderr
    assert "not a picture" in many.stderr and "11 scored at their own size" in many.stdout
    rows, error = scores("many")
    assert rows == scores("one")[0] and error == pytest.approx(scores("one")[1])
    write_image(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), tmp_path/"set/images/3.png")
    again = run("cluster", "evaluate", "set", "-o", "many", "--resume")
    assert again.returncode == 0 and "12 scored" in again.stdout and scores("many")[0][:3] == rows[:3], again.stderr
    assert len(paths(tmp_path/"many", "scores")) == 13  # 3 has two rows, of which the last one counts


def test_store_to_store_and_resume(tmp_path, monkeypatch):
    "From and to S3, spoken with a server; a mask that somebody deletes is made again."
    s3fs, moto = pytest.importorskip("s3fs"), pytest.importorskip("moto.server")
    pictures(tmp_path/"in", 6)
    mask_folder(tmp_path/"in", tmp_path/"one", Segmenter(size=SIZE))
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        for key, value in {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1",
                           "ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port())}.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        store.mkdir("archive")
        store.put(f"{tmp_path}/in/", "archive/photos/", recursive=True)
        def run(*more):
            command = [*SKYSKY, "cluster", "mask", "s3://archive/photos", "-o", "s3://archive/masks", "--size", "64"]
            return subprocess.run([*command, *more], capture_output=True, text=True)
        def there(): return {p[len("archive/masks/"):]: store.cat(p) for p in store.find("archive/masks")
                             if p.endswith(".png")}
        first = run()
        assert first.returncode == 1 and "bad.jpg: not a picture" in first.stderr and "6 done" in first.stdout, first
        assert there() == masks(tmp_path/"one")
        store.rm(f"archive/masks/{sorted(there())[3]}")
        assert len(there()) == 5
        again = run("--resume")
        assert again.returncode == 0 and "1 done" in again.stdout and "6 already there" in again.stdout, again
        assert there() == masks(tmp_path/"one")
        assert not store.find("archive/masks/.skysky-names")
    finally: server.stop()


def test_ray_reports_to_nobody(monkeypatch):
    from skysky.cluster import pool
    usage_lib, asked = pytest.importorskip("ray._common.usage.usage_lib"), []
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")  # so that it is as before afterwards
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    assert usage_lib.usage_stats_enabled()  # what Ray does by itself
    monkeypatch.setattr(pool.ray, "init", lambda *_, **__: asked.append(usage_lib.usage_stats_enabled()))
    with pool.connected(): assert asked == [False]


def test_prometheus_finds_the_counts(tmp_path):
    "What `ray[default]` brings serves them; without it nobody asks."
    for name in ("opencensus", "opentelemetry.sdk"): pytest.importorskip(name, reason="needs ray[default]")
    import ray

    from skysky.cluster import mask_archive
    pictures(tmp_path/"in", 60)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ray.init("local", num_cpus=1, _metrics_export_port=port, include_dashboard=False, log_to_driver=False,
             _system_config={"metrics_report_interval_ms": 500})
    try:
        mask_archive(tmp_path/"in", tmp_path/"many", {"size": SIZE})
        for _ in range(60):
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page: text = page.read().decode()
            counted = re.finditer(r'^ray_(skysky_\w+_total)\{.*?\b(?:state|stage)="(\w+)"', text, re.M)
            found = {m.groups() for m in counted}
            if len(found) >= 4: break
            time.sleep(1)
    finally: ray.shutdown()
    assert found == {("skysky_pictures_total", "pictures"), ("skysky_pictures_total", "errors"),
                     ("skysky_seconds_total", "mask"), ("skysky_seconds_total", "write")}


def test_names_are_streamed(tmp_path):
    "100,000 names in 100 folders: what is held does not grow with them."
    code = ("import sys, tracemalloc; from skysky.cluster.places import list_pictures, open_place\n"
            "from skysky.cluster.record import Done, write_names\n"
            "place, most = open_place(sys.argv[1]), []\n"
            "def listed(n):\n"
            "    for i, picture in enumerate(list_pictures(place)):\n"
            "        if i == n: return\n"
            "        yield picture\n"
            "for n in (20_000, 20_000, 100_000):\n"
            "    tracemalloc.start(); assert write_names(listed(n), open_place(sys.argv[2]), 'names') == n\n"
            "    most.append(tracemalloc.get_traced_memory()[1]); tracemalloc.stop()\n"
            "assert most[2] < 1.2*most[1], most")
    for i in range(100):
        (tmp_path/f"in/{i:02}").mkdir(parents=True)
        for j in range(1000): (tmp_path/f"in/{i:02}/{j}.jpg").touch()
    subprocess.run([sys.executable, "-c", code, tmp_path/"in", tmp_path/"out"], check=True)


def test_files_of_clusters():
    "Nobody has run them: Ray's own schema takes the one, the shell the other, and skysky the commands in both."
    import jsonschema
    import ray
    schema = json.loads((Path(ray.__file__).parent/"autoscaler/ray-schema.json").read_text())
    aws, slurm = ((CONFIG/name).read_text() for name in ("cluster_aws.yaml", "cluster_slurm.sh"))
    jsonschema.validate(yaml.safe_load(aws), schema)
    subprocess.run(["bash", "-n"], input=slurm, text=True, check=True)
    for text in (aws, slurm):
        (line,) = re.findall(r"skysky cluster mask (.*?)\"?$", re.sub(r"\\\n#? *", "", text), re.M)
        with mask_cluster.make_context("mask", line.split()) as context:
            assert context.params["address"] == "auto" and context.params["resume"]


def deadly(count):
    "A worker whose process dies of a picture."
    from skysky.cluster.record import SCHEMA
    def work(page):
        if "c.jpg" in page["name"].to_pylist(): os._exit(1)
        rows = [{"path": p["name"], "size": p["size"], "stamp": "s", "settings": "h", "failed": "", "why": ""}
                for p in page.to_pylist()]
        return pa.Table.from_pylist(rows, SCHEMA)
    return work


def test_a_picture_kills_its_process(tmp_path, monkeypatch):
    "The others have their rows, also those of its block."
    from ray import cloudpickle

    from skysky.cluster import places, pool, record
    monkeypatch.setattr(pool, "RETRIES", 1)
    monkeypatch.setattr(pool, "SHARES", 2)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the machines do not know this file
    place, lines = places.open_place(tmp_path), []
    names = (places.Listed(f"{name}.jpg", 1, "s", None) for name in "abcd")
    with pool.connected(), record.Record(place) as table, pool.names_written(names, place) as n:
        list(pool.answers(pool.Work(deadly, (), "h"), table, n, pool.Room(workers=1), say=lines.append))
    assert paths(tmp_path) == ["a.jpg", "b.jpg", "d.jpg"]
    assert lines == ["2 pictures have lost their worker again and again: now each by itself"]


@contextmanager
def two_nodes(cores):
    "A cluster of a head with so many cores, and a node with one."
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, node
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cores", [1, 0])  # of the machine that is left
def test_a_node_is_lost_for_good(tmp_path, cores):
    "The job ends on what is left; where that is nothing it says so, and goes on when it is asked."
    from skysky.cluster import mask_archive
    n, rows = 200, Event()
    pictures(tmp_path/"in", n)
    mask_folder(tmp_path/"in", tmp_path/"one", Segmenter(size=SIZE))
    def run(**more):
        return mask_archive(tmp_path/"in", tmp_path/"many", {"size": SIZE}, patience=60 if cores else 10,
                            tell=lambda *_: rows.set(), **more)
    with two_nodes(cores) as (cluster, node), ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread
        job = pool.submit(run)
        while not rows.wait(.1): assert not job.done(), job.result(0)
        cluster.remove_node(node, allow_graceful=False)
        if cores: counts = job.result(400)
        else:
            with pytest.raises(SkyError, match="lost, and nothing has come for 10 s: .* are left; --resume goes on"):
                job.result(400)
            assert 0 < len(paths(tmp_path/"many")) < n and not (tmp_path/"many/.skysky-names").exists()
            cluster.add_node(num_cpus=1)
            counts = pool.submit(run, resume=True).result(400)
            assert 0 < counts["skipped"] < n
    assert (counts["done"] + counts["failed"] + counts["skipped"], counts["lost"]) == (n + 1, 0)
    assert masks(tmp_path/"many") == masks(tmp_path/"one")
    assert len(set(paths(tmp_path/"many"))) == len(paths(tmp_path/"many")) == n + 1


@pytest.mark.skipif(not MANY, reason="takes minutes: SKYSKY_TEST_CLUSTER=2000")
@pytest.mark.timeout(600 + 2*MANY)
@pytest.mark.parametrize("kills", [0, 5])
def test_a_node_is_killed(tmp_path, kills):
    from skysky.cluster import mask_archive
    pictures(tmp_path/"in", MANY)
    start = time.perf_counter()
    mask_folder(tmp_path/"in", tmp_path/"one", Segmenter(size=SIZE, threads=1))
    alone = time.perf_counter() - start
    with two_nodes(1) as (cluster, node), ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread alone
        lost, start = 0, time.perf_counter()
        job = pool.submit(mask_archive, tmp_path/"in", tmp_path/"many", {"size": SIZE})
        while lost < kills and not wait([job], random.uniform(5, 15)).done:
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1)
            lost += 1
        counts = job.result(600)
        took = time.perf_counter() - start
    print(f"{MANY/took:.1f} a second, {lost} nodes lost; one machine: {MANY/alone:.1f}")
    assert lost == kills
    assert (counts["done"], counts["failed"], counts["lost"]) == (MANY, 1, 0)
    assert masks(tmp_path/"many") == masks(tmp_path/"one")
    assert len(set(paths(tmp_path/"many"))) == len(paths(tmp_path/"many")) == MANY + 1


@pytest.mark.skipif(not MANY, reason="takes minutes: SKYSKY_TEST_CLUSTER=2000")
@pytest.mark.timeout(600 + 2*MANY)
def test_the_rate_is_that_of_a_folder(tmp_path):
    "Two nodes of one core, against the folder's job on both cores, before and after; photos of 1.2 megapixels."
    from skysky.cluster import mask_archive
    n, rng = MANY//12, np.random.default_rng(0)
    for i in range(n):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        write_image(cv2.resize(coarse, (1280, 960), interpolation=cv2.INTER_CUBIC), tmp_path/f"in/{i:04}.jpg")

    def rate(seen):  # times, and how many were done: what a start takes is left out
        return (seen[-1][1] - seen[0][1])/(seen[-1][0] - seen[0][0])

    def folder(name):
        seen = []
        mask_folder(tmp_path/"in", tmp_path/name, Segmenter(), lambda _: seen.append((time.perf_counter(), len(seen))))
        return rate(seen)

    before, seen = folder("one"), []
    def tell(counts, total, failed): seen.append((time.perf_counter(), counts["done"]))
    with two_nodes(1):
        start = time.perf_counter()
        mask_archive(tmp_path/"in", tmp_path/"many", tell=tell)
        whole = n/(time.perf_counter() - start)
    after = folder("again")
    print(f"{n} photos: {rate(seen):.2f} a second on the cluster, {whole:.2f} with its start; "
          f"a folder: {before:.2f} and {after:.2f}")
    assert masks(tmp_path/"many") == masks(tmp_path/"one")
    assert rate(seen) > .85*min(before, after)
