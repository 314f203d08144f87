"""What stragglers, lost machines and pre-emption cost an archive: `python docs/scale.py` prints docs/scale.md's table.

Blocks of pictures go to whichever worker is free, as Ray Data hands them out. A worker that is lost loses the block it
has; the block waits for the next free worker, and another worker stands in its place after a while."""
import heapq
import random

BLOCK = 64  # pictures, as in `skysky.cluster.archive`


def simulate(
    blocks: int, workers: int,
    seconds: float,  # of a block, on a worker that is as fast as it should be
    loss: float = 0,  # losses of a worker an hour
    back: float = 120,  # s until another one has its place, model opened
    slow: float = 0, factor: float = 4,  # share of workers that are slow, and how much
    spread: float = .2,  # standard deviation of a block's time, relative
    seed: int = 0,
) -> tuple[float, float]:  # hours until the last block; share of the workers' time whose work is lost, or idle
    "A job, event by event."
    rng, todo, end, useful = random.Random(seed), blocks, 0., 0.
    pace = [factor if rng.random() < slow else 1. for _ in range(workers)]
    free = [(rng.random(), i) for i in range(workers)]  # s, worker
    heapq.heapify(free)
    lost = []  # s at which a block came back
    while todo or lost:
        now, i = heapq.heappop(free)
        if todo: todo -= 1
        elif min(lost) <= now: lost.remove(min(lost))
        else:  # wait for the block that comes back first
            heapq.heappush(free, (min(lost), i))
            continue
        took = seconds*pace[i]*max(.2, rng.gauss(1, spread))
        dies = rng.expovariate(loss/3600) if loss else took + 1
        if dies < took:
            lost.append(now + dies)
            heapq.heappush(free, (now + dies + back, i))
        else:
            end, useful = max(end, now + took), useful + took/pace[i]
            heapq.heappush(free, (now + took, i))
    return end/3600, 1 - useful/(end*workers)


CASES = {"nothing goes wrong": {}, "1 % of workers four times as slow": {"slow": .01},
         "a worker lost every 24 h": {"loss": 1/24}, "spot machines: lost every 2 h": {"loss": .5},
         "lost every 10 min": {"loss": 6}, "spot machines, and 5 % slow": {"loss": .5, "slow": .05}}

if __name__ == "__main__":
    pictures, workers, seconds = 10_000_000, 1000, .48*BLOCK
    print(f"{pictures:,} pictures on {workers:,} workers, {seconds/BLOCK:g} s a picture\n\n| what happens | hours | "
          "time lost or idle |\n| --- | --- | --- |")
    for name, case in CASES.items():
        hours, share = simulate(pictures//BLOCK, workers, seconds, **case)
        print(f"| {name} | {hours:.2f} | {share:.1%} |")
