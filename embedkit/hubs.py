"""Hubs: datasets and networks by name, and what of them decides a result.

Datasets come by way of the `datasets` library, streamed, so that nothing is copied twice. With no network every function
here says so in one sentence and names the local form. No code from a hub is ever run.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from embedkit.environment import package_version
from embedkit.settings import UserError, listed, not_among

BYTES_AT_ONCE = 2**26


class ClassName(str):
    """A label that its source declares to be the name of a class, however it is written."""


def content(scheme: str, name: str) -> str:
    """What a hub's name stands for now: a commit for Hugging Face, a versioned handle or package version elsewhere."""
    if scheme == "hf":
        commits = {kind: _commit(name, kind) for kind in ("model", "dataset")}
        if not any(commits.values()):
            raise _unknown(name)
        return f"{name} {commits}"
    if scheme == "kaggle":
        return kaggle_handle(name)
    return f"{name} {package_version('keras-hub' if scheme == 'keras' else 'keras')}"


@functools.cache  # one answer for a whole process: a push to the hub in mid-run doesn't mix two states
def _commit(name: str, kind: str) -> str | None:
    """The commit a hub's name stands for, None where there is no such model or dataset."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return HfApi().repo_info(repository, revision=revision or None, repo_type=kind, timeout=20).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    except Exception as error:
        raise unreachable(f"hf://{name}", error) from error


@functools.cache  # as for a commit
def kaggle_handle(name: str) -> str:
    """A handle with its version, OWNER/MODEL/FRAMEWORK/VARIATION/VERSION; the newest there is where none was given."""
    if re.fullmatch(r"[^/]+(/[^/]+){3}/[0-9]+", name):
        return name
    import kagglehub

    try:
        found = Path(kagglehub.model_download(name, "config.json")).parent.name  # lies in a folder of its version
    except Exception as error:
        raise unreachable(f"kaggle://{name}", error) from error
    if not found.isdecimal():
        raise UserError(f"the newest version of kaggle://{name} can't be told; give one, such as kaggle://{name}/1")
    return f"{name}/{found}"


def _unknown(name: str) -> UserError:
    return UserError(f"hf://{name} is not on the hub, or is private and no token is set; check its owner/name and revision")


def unreachable(name: str, error: Exception) -> UserError:
    """The error for a hub that doesn't answer."""
    return UserError(
        f"{name} could not be reached ({type(error).__name__}: no network?); download it where there is one and give "
        "the local folder or file instead of the name"
    )


def splits(name: str, subset: str | None) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """The splits of a Hugging Face dataset and their rows, streamed."""
    import datasets

    repository, commit = name.partition("@")[0], _commit(name, "dataset")
    if commit is None:
        raise _unknown(name)
    try:
        loaded = datasets.load_dataset(repository, subset, revision=commit, streaming=True)
    except UserError:
        raise
    except ValueError as error:  # several configurations, none named; or one that isn't there
        names = datasets.get_dataset_config_names(repository, revision=commit)
        if subset is None:
            raise UserError(f"hf://{repository} has several subsets ({listed(names)}); name one with files.subset") from error
        raise not_among(f"subset of hf://{repository}", subset, names) from error
    except (FileNotFoundError, RuntimeError) as error:
        words = str(error).splitlines()[0]
        raise UserError(f"hf://{repository} holds no rows that can be read without running its code ({words})") from error
    except Exception as error:
        raise unreachable(f"hf://{repository}", error) from error
    for split, rows in loaded.items():
        yield str(split), _plain(rows)


def parquet(path: Path, data: BinaryIO | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, whose bytes may be given; images stay encoded, class labels become their names."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(data or path)
        try:
            features = datasets.Features.from_arrow_schema(file.schema_arrow)
        except ValueError:  # a type that the library doesn't know, such as a map; Arrow reads it, and it names no classes
            features = {}
        for batch in file.iter_batches(_rows_at_once(file)):
            yield from (_named(row, features) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as Parquet ({error}); give a whole file, or rename it to what it is") from error


def _rows_at_once(file: Any) -> int:
    """How many rows of a Parquet file are taken in one go: so many that they are no more than BYTES_AT_ONCE, once uncompressed."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    size = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    for few in file.iter_batches(16):  # values that repeat are stored once, so they may be larger than the file says
        size = max(size, few.nbytes // max(1, few.num_rows))
        break
    return min(1024, 1 + BYTES_AT_ONCE // max(1, size))


def _plain(rows: Any) -> Iterator[dict[str, Any]]:
    import datasets

    rows = rows if rows.features else rows._resolve_features()  # pictures that lie there as files say so only after a look
    features = rows.features or {}
    for row in rows.decode(False):
        for column, feature in features.items():
            image = row[column] if isinstance(feature, datasets.Image) else None
            if image and image.get("bytes") is None and "://" in (image.get("path") or ""):
                with datasets.utils.file_utils.xopen(image["path"], "rb") as file:
                    row[column] = image | {"bytes": file.read()}
        yield _named(row, features)


def _named(row: dict[str, Any], features: Any) -> dict[str, Any]:
    """A row whose class labels are names instead of numbers; -1 is how the library writes "no label", in test splits."""
    import datasets

    def name(label: datasets.ClassLabel, number: int | None) -> str | None:
        return ClassName(label.int2str(number)) if number is not None and number >= 0 else None

    for column, feature in features.items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.ClassLabel):
            row[column] = name(feature, row[column])
        elif isinstance(inner, datasets.ClassLabel) and row[column] is not None:
            row[column] = [name(inner, number) for number in row[column]]
    return row


def snapshot(name: str) -> Path:
    """Download a network's folder from Hugging Face, without pickled files and without code."""
    import huggingface_hub

    commit = _commit(name, "model")
    if commit is None:
        raise _unknown(name)
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(huggingface_hub.snapshot_download(name.partition("@")[0], revision=commit, allow_patterns=patterns))
    except Exception as error:
        raise unreachable(f"hf://{name}", error) from error
