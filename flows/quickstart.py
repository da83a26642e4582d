"""`embedkit quickstart`: the pipeline on built-in digits with few labels, and a table of what came out."""

import os
from pathlib import Path

from embedkit.heads import TrainHead
from embedkit.tables import chain
from flows.pipeline import pipeline


def main(root: Path | None) -> None:
    """Run the pipeline, with no server unless PREFECT_API_URL names one, and print what was made."""
    if root:
        os.environ["EMBEDKIT_ARTIFACTS"] = str(root.absolute())
    run = pipeline if os.environ.get("PREFECT_API_URL") else pipeline.fn
    chain(run(head=TrainHead(labels_per_class=5)))
