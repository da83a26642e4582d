"""Files of networks are looked at before a library opens them: what they say of themselves decides how much is built and read.

Only arrays and plain layers are read, so a file that reads others (links in HDF5, paths out of a zip or a folder), that unpacks to
far more than it holds, or that describes a network larger than its weights, is refused; and nothing of a file is ever run.
"""

import contextlib
import io
import json
import math
import mmap
import re
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from embedkit.settings import UserError

MOST_JSON = 256_000_000
"""Bytes of a JSON file; a tokenizer of 250,000 pieces has 17 million."""
MOST_LAYERS = 4000
"""Of a Keras configuration; the deepest of keras.applications has about 1,100."""
MOST_DEEP = 512
"""Layers of a BERT; published ones have up to 48."""
MOST_PACKED = 20
"""Times a file may grow when it is unpacked; weights hardly shrink, and Keras doesn't pack them at all."""
SPARE = 100_000
"""Numbers, or bytes, that are never too many."""
PARTS = re.compile(r"(config|metadata)\.json|model\.weights\.(h5|npz)")
"""Members of a .keras file of plain layers."""
OTHERS = re.compile(r"Lookup|Tokenizer|TextVectorization|Preprocessor|TFSM|Torch|Jax|Flax|Lambda")
"""Kinds of layers that read files or run code; neither is part of a network of pictures or token ids."""
DEPTHS = ("num_hidden_layers", "n_layers", "num_layers", "num_hidden_groups", "inner_group_num", "depth")


def words(error: BaseException) -> str:
    """An error of a library's as a few words on one line."""
    found = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError) and " " not in found:
        found += " is missing"
    return found if len(found) <= 200 else found[:200] + "..."


@contextlib.contextmanager
def foreign(what: str, advice: str) -> Iterator[None]:
    """A block in which libraries work on what came from outside: whatever they raise on it becomes one sentence.

    Args:
        what: the beginning of the sentence, which the library's words follow.
        advice: its end.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # Rust's, which is no Exception
            raise
        raise UserError(f"{what} ({words(error)}); {advice}") from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        FileNotFoundError: when there is none.
        UserError: when it is too large, too deep or no JSON.
    """
    try:
        if path.stat().st_size > MOST_JSON:
            raise UserError(f"{path} has more than {MOST_JSON:,} bytes; a network's JSON is smaller, so download the folder again")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise UserError(f"{path} is JSON that is nested too deep to be read; download the folder again") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({words(error)}); download the folder again") from error


@contextlib.contextmanager
def at_most(numbers: int, name: str) -> Iterator[None]:
    """Stop a network that is being built in this thread from becoming larger than the weights that are there for it.

    Args:
        numbers: how many there are.
        name: of the network, for messages.

    Raises:
        UserError: when it asks for more; before they are made.
    """
    import keras

    kind: Any = keras.Variable
    made, mine, begin = 0, threading.get_ident(), kind.__init__

    def counted(variable: Any, initializer: Any, shape: Any = None, *args: Any, **options: Any) -> None:
        nonlocal made
        if threading.get_ident() == mine and shape is not None:
            made += math.prod(int(size) for size in shape)
            if made > numbers + SPARE:
                raise ValueError("more weights than there are")
        begin(variable, initializer, shape, *args, **options)

    kind.__init__ = counted
    try:
        yield
    except Exception as error:
        if made > numbers + SPARE:
            raise UserError(
                f"{name} says it is a network of at least {made:,} weights, but its files hold at most {numbers:,}; "
                "give the complete folder or file of one"
            ) from error
        raise
    finally:
        kind.__init__ = begin


def refuse_depth(config: dict[str, Any], path: Path) -> None:
    """Stop before a network is built that is deeper than any, since some share the weights of all their layers.

    Raises:
        UserError: naming what the configuration says.
    """
    said = {key: config[key] for key in DEPTHS if config.get(key) is not None}
    wrong = [key for key, value in said.items() if not isinstance(value, int) or not 1 <= value <= MOST_DEEP]
    if wrong:
        raise UserError(f"{path} says {wrong[0]} is {said[wrong[0]]!r:.40}; it must be a whole number from 1 to {MOST_DEEP}")


def refuse_layers(config: Any, name: str) -> None:
    """Stop before a Keras configuration becomes layers that aren't plain, or too many.

    Raises:
        UserError: naming the layer.
    """
    waiting, layers = [config], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        if isinstance(value, dict):
            waiting.extend(value.values())
            kind = value.get("class_name")
            layers += "inbound_nodes" in value or "build_config" in value
            if isinstance(kind, str) and OTHERS.search(kind):
                said = f"{name} has a layer of the kind {kind:.80}, which may read files or run code"
                raise UserError(f"{said}; save it from plain layers")
    if layers > MOST_LAYERS:
        raise UserError(f"{name} describes {layers:,} layers; at most {MOST_LAYERS:,} are built, so take a smaller network")


def refuse_links(path: Any, name: str, size: int) -> None:
    """Stop before an HDF5 file is read that leads to other files, or to more numbers than it holds.

    Args:
        path: the file, or an open one.
        name: for messages.
        size: of the file in bytes.

    Raises:
        UserError: naming what in it does so.
    """
    import h5py

    with foreign(f"{name} can't be read as HDF5 weights", "download it again"), h5py.File(path, "r") as file:
        wrong = _linked(file) or _unstored(file, size)
    if wrong:
        raise UserError(f"{name} {wrong}; only files that hold all their weights themselves are read, so save it anew")


def _linked(file: Any) -> str | None:
    from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

    found: list[str] = []

    def look(name: bytes, link: Any) -> Any:
        if link.type != h5l.TYPE_HARD:
            found.append(f"has a link instead of weights at {name.decode(errors='replace'):.80}")
        return found or None

    file.id.links.visit(look, info=True)
    return found[0] if found else None


def _unstored(file: Any, size: int) -> str | None:
    import h5py

    total = 0

    def look(name: str, value: Any) -> str | None:
        nonlocal total
        if not isinstance(value, h5py.Dataset):
            return None if isinstance(value, h5py.Group) else f"holds something else than weights at {name:.80}"
        if value.external or value.is_virtual:
            return f"takes {name:.80} from another file"
        if value.dtype.kind not in "biufV" or value.dtype.itemsize > 8:  # V is bfloat16
            return f"holds something else than weights at {name:.80}"
        total += math.prod(value.shape or ()) * value.dtype.itemsize
        return f"unpacks to more than {total:,} bytes, from {size:,}" if total > MOST_PACKED * size + SPARE else None

    return file.visititems(look)


def open_keras(path: Path, name: str) -> Any:
    """The Keras model in a .keras file, which is looked at first.

    Args:
        path: the file.
        name: for messages.

    Raises:
        UserError: when it can't be read as one without running code of it.
    """
    import keras

    with foreign(f"{name} can't be read as a Keras model without running code of it", "save it from plain layers"):
        with at_most(_packed(path, name), name):
            return keras.saving.load_model(path, compile=False, safe_mode=True)


def _packed(path: Path, name: str) -> int:
    """Look at the members of a .keras file; how many weights it may hold."""
    size, numbers = path.stat().st_size, 0
    with zipfile.ZipFile(path) as packed:
        members = packed.infolist()
        for member in members:
            if not PARTS.fullmatch(member.filename):
                raise UserError(f"{name} holds {member.filename!r:.80}, which is no part of a plain Keras model; save it anew")
        whole = sum(member.file_size for member in members)
        if whole > MOST_PACKED * size + SPARE:
            raise UserError(f"{name} unpacks to {whole:,} bytes, from {size:,}, which weights do not; save it anew")
        if len(members) != len({member.filename for member in members}):
            raise UserError(f"{name} holds two members of one name; save it anew")
        refuse_layers(json.loads(packed.read("config.json")), name)
        for member in members:
            if member.filename == "model.weights.h5":
                numbers += member.file_size
                with _member(path, packed, member) as held:
                    refuse_links(held, name, member.file_size)
            elif member.filename.endswith(".npz"):
                numbers += member.file_size
    return numbers


def _member(path: Path, packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> io.IOBase:
    """A member as a file: where it isn't compressed a window of the zip, since only little of it is looked at."""
    if member.compress_type != zipfile.ZIP_STORED:
        return io.BytesIO(packed.read(member))
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
    start = member.header_offset + 30 + name + extra
    return _Window(data[start : start + member.file_size])


class _Window(io.RawIOBase):
    """Bytes as a file that is read where it is looked at."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: len(self.data)}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from here on."""
        piece = self.data[self.at : self.at + len(buffer)]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


def refuse_paths(named: Any, path: Path) -> None:
    """Stop before a list of files leads out of its folder.

    Args:
        named: file names, or lists of them, by whatever.
        path: of the list.

    Raises:
        UserError: naming the path.
    """
    if not isinstance(named, dict):
        raise UserError(f"{path} names no files; download the folder again")
    values = [one for value in named.values() for one in (value if isinstance(value, list) else [value])]
    for value in values:
        if not isinstance(value, str) or PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts or "\\" in value:
            raise UserError(f"{path} names {value!r:.80}, which leads out of its folder; download the folder again")
