"""An archive on a Ray cluster: the bytes of `skysky mask`, whatever happens to a machine.

SKYSKY_TEST_CLUSTER=N also masks N pictures on two nodes, of which one is killed five times."""
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from skysky import Segmenter
from skysky.jobs import mask_folder
from skysky.write_images import write_image

pytestmark = pytest.mark.alone  # two nodes

pytest.importorskip("ray", reason="needs the extra cluster")
pq = pytest.importorskip("pyarrow.parquet")
SIZE, SKYSKY = 64, [sys.executable, "-m", "skysky"]
MANY = int(os.environ.get("SKYSKY_TEST_CLUSTER", 0))


def pictures(folder, n):
    "Pictures of two shapes, and a damaged one."
    rng = np.random.default_rng(0)
    for i in range(n):
        write_image(rng.integers(0, 255, ((48, 64)[i % 2], 64, 3), dtype=np.uint8), folder/f"{i % 10}/{i:05}.jpg")
    (folder/"bad.jpg").write_text("no picture")


def masks(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def paths(folder): return sorted(pq.read_table(folder/"sky")["path"].to_pylist())


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
    from skysky.cluster import archive
    usage_lib, asked = pytest.importorskip("ray._common.usage.usage_lib"), []
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")  # so that it is as before afterwards
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    assert usage_lib.usage_stats_enabled()  # what Ray does by itself
    monkeypatch.setattr(archive.ray, "init", lambda *_, **__: asked.append(usage_lib.usage_stats_enabled()))
    with archive.connected(): assert asked == [False]


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


@pytest.mark.skipif(not MANY, reason="takes minutes: SKYSKY_TEST_CLUSTER=2000")
@pytest.mark.timeout(600 + 2*MANY)
def test_a_node_is_killed_five_times(tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    from skysky.cluster import mask_archive
    pictures(tmp_path/"in", MANY)
    seg = Segmenter(size=SIZE, threads=1)
    start = time.perf_counter()
    mask_folder(tmp_path/"in", tmp_path/"one", seg)
    alone = time.perf_counter() - start
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        for name, kills in (("many", 0), ("killed", 5)):
            lost, start = 0, time.perf_counter()
            with ThreadPoolExecutor(1) as pool:  # Ray starts nodes in the main thread alone
                job = pool.submit(mask_archive, tmp_path/"in", tmp_path/name, {"size": SIZE})
                while lost < kills and not wait([job], random.uniform(5, 15)).done:
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
                    nodes.append(cluster.add_node(num_cpus=1))
                    lost += 1
                counts = job.result(60)
            print(f"{name}: {MANY/(time.perf_counter() - start):.1f} a second, {lost} nodes lost; "
                  f"one machine: {MANY/alone:.1f}")
            assert lost == kills
            assert (counts["done"], counts["failed"], counts["lost"]) == (MANY, 1, 0)
            assert masks(tmp_path/name) == masks(tmp_path/"one")
            assert len(set(paths(tmp_path/name))) == len(paths(tmp_path/name)) == MANY + 1
    finally:
        ray.shutdown()
        cluster.shutdown()
