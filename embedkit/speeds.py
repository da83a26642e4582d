"""Speeds: how fast encoders and classifiers answer on one core, from strings to answers, in alternating rounds.

A process of its own measures, since TensorFlow's threads can't be taken back to one core once they run:
`python -m embedkit.speeds` reads what to measure as JSON from standard input and writes what it measured to standard output.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedkit.artifacts import Artifact
from embedkit.settings import UserError

ROUNDS = 5
SINGLE = 24
"""Rows that are answered one by one in a round."""
TOGETHER = 32
LEAST_SECONDS = 0.1
"""A measurement repeats its rows until it takes so long."""


def measure(artifacts: Sequence[Artifact], rows: list[Any], rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure artifacts beside one another.

    Args:
        artifacts: encoders or classifiers, the one that others are compared to first.
        rows: texts, or others as JSON can hold them, of the sort that they will see.
        rounds: in each of which every artifact is measured once.

    Returns:
        By artifact: `ms_1` and `ms_32`, medians over the rounds; `rows_per_second`; `speedup` over the first one with `median`,
        `lowest` and `highest` of the rounds.

    Raises:
        UserError: when the process fails, with its last line.
    """
    asked = {"references": [str(one) for one in artifacts], "root": str(artifacts[0].root), "rows": rows, "rounds": rounds}
    one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "embedkit.speeds"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, encoding="utf-8", env=os.environ | one_thread | {"PYTHONPATH": path}
    )
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise UserError(f"the speed could not be measured ({last}); make the same call again, or look at the artifacts it names")
    return json.loads(done.stdout.splitlines()[-1])


def alternating(answers: list[Callable[[list[Any]], Any]], rows: list[Any], rounds: int) -> list[dict[str, Any]]:
    """Measure functions of rows in alternating rounds, after a warm-up; as `measure` gives it.

    Args:
        answers: each takes a list of rows.
        rows: to answer.
        rounds: how many.
    """
    few, batch = rows[:SINGLE], rows[:TOGETHER]
    seen: list[list[tuple[float, float, float]]] = [[] for _ in answers]
    for number in range(rounds + 1):
        for place, answer in enumerate(answers):
            single = _seconds(lambda answer=answer: [answer([row]) for row in few]) / len(few)
            together = _seconds(lambda answer=answer: answer(batch))
            whole = _seconds(lambda answer=answer: answer(rows)) / len(rows)
            if number:  # the first round warms up
                seen[place].append((single, together, whole))
    found = np.array(seen)  # (answers, rounds, 3) seconds
    ratios = found[:1, :, 2] / found[:, :, 2]
    return [
        {
            "ms_1": 1000 * float(np.median(one[:, 0])),
            "ms_32": 1000 * float(np.median(one[:, 1])),
            "rows_per_second": 1 / float(np.median(one[:, 2])),
            "speedup": {"median": float(np.median(ratio)), "lowest": float(ratio.min()), "highest": float(ratio.max())},
        }
        for one, ratio in zip(found, ratios, strict=True)
    ]


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds that some work takes, repeated while it is too short to be timed."""
    start, times = time.perf_counter(), 0
    while not times or time.perf_counter() - start < LEAST_SECONDS:
        work()
        times += 1
    return (time.perf_counter() - start) / times


def _answering(reference: str, root: str) -> Callable[[list[Any]], Any]:
    from embedkit.encoders import Encoder
    from embedkit.predicting import Classifier

    artifact = Artifact.open(reference, root)
    return Classifier.open(artifact).probabilities if artifact.manifest.kind == "classifier" else Encoder.open(artifact).encode


def _main() -> None:
    if hasattr(os, "sched_setaffinity"):  # macOS and Windows have no such call, and measure on all cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow starts its threads
    asked = json.load(sys.stdin)
    answers = [_answering(reference, asked["root"]) for reference in asked["references"]]
    print(json.dumps(alternating(answers, asked["rows"], asked["rounds"])))


if __name__ == "__main__":
    _main()
