"""embedkit turns images, texts and tables into vectors, and vectors into classifiers, small models and search.

Each step is a stage, a plain function of artifacts and one settings object; each stage writes one versioned artifact.
Importing embedkit imports no framework: the names below are loaded when they are first used. It imports next to nothing at all,
since the command answers signals (`stopping`) only once this is done.
"""

import importlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Before TensorFlow is loaded: Keras on TensorFlow, and none of TensorFlow's greetings on stderr.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

STAGES = {
    "load_images": "embedkit.datasets",
    "load_texts": "embedkit.datasets",
    "load_table": "embedkit.datasets",
    "import_encoder": "embedkit.encoders",
    "make_control": "embedkit.controls",
    "pretrain_autoencoder": "embedkit.autoencoder",
    "learn_categories": "embedkit.categories",
    "cut_encoder": "embedkit.layers",
    "embed": "embedkit.embedding",
    "train_head": "embedkit.heads",
    "fine_tune": "embedkit.finetuning",
    "mask_texts": "embedkit.masking",
    "distil": "embedkit.distillation",
    "compare": "embedkit.comparison",
    "compare_students": "embedkit.compression",
    "compare_categories": "embedkit.worth",
    "build_index": "embedkit.index",
    "export": "embedkit.exporting",
}
_NAMES = STAGES | {
    "Artifact": "embedkit.artifacts",
    "UserError": "embedkit.settings",
    "Settings": "embedkit.settings",
    "Encoder": "embedkit.encoders",
    "search": "embedkit.index",
    "Search": "embedkit.index",
    "Classifier": "embedkit.predicting",
    "Predict": "embedkit.predicting",
    "LoadImages": "embedkit.datasets",
    "LoadTexts": "embedkit.datasets",
    "LoadTable": "embedkit.datasets",
    "ImportEncoder": "embedkit.encoders",
    "MakeControl": "embedkit.controls",
    "PretrainAutoencoder": "embedkit.autoencoder",
    "LearnCategories": "embedkit.categories",
    "neighbours": "embedkit.categories",
    "Neighbours": "embedkit.categories",
    "EntityEmbedding": "embedkit.estimator",
    "Embed": "embedkit.embedding",
    "TrainHead": "embedkit.heads",
    "FineTune": "embedkit.tuning",
    "CutEncoder": "embedkit.layers",
    "MaskTexts": "embedkit.masking",
    "Distil": "embedkit.distillation",
    "CompareStudents": "embedkit.compression",
    "CompareCategories": "embedkit.worth",
    "Compare": "embedkit.comparison",
    "BuildIndex": "embedkit.index",
    "Export": "embedkit.exporting",
    "Training": "embedkit.training",
}
__all__ = [*_NAMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> "Any":
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'embedkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
