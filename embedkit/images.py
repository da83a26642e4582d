"""Pictures: encoded bytes become pixels, the same everywhere.

Pixels are (height, width, 3) uint8, RGB, upright. One decoder for every stage, so that what was trained on is what is
embedded: JPEG, PNG, GIF and WebP (first frame), MPO (first picture), BMP, TIFF, PPM; grey, palette, CMYK and 16-bit pictures
come out as 8-bit RGB, transparency over white, EXIF rotation applied. Samples of 16 bits are unsigned, floats go from 0 to 1;
others, whose range nobody tells, are refused by the name of their type. Metadata that can't be read takes no pixel away.

A few bytes may stand for a picture that fills the memory, so its size is looked at before it is decoded, and colours are
converted a strip at a time. Decoding takes 8 bytes a pixel at most, result included, and 16 where the decoder itself holds the
picture several times: WebP, PPM of 16 bits, and progressive JPEG.
"""

import contextlib
import functools
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from embedkit import formats

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM")
"""What is decoded, whatever a file is called. Pillow knows more, but some of them start other programs. MPO, several JPEGs in a
file, isn't among its openers: that of JPEG reads it."""
MAX_PIXELS = 500_000_000
"""Largest picture that is decoded, in pixels: 4 GB of memory, 8 GB of the formats that take more. A 20,000 x 10,000 panorama has
200 million."""
AT_ONCE = 2**31
"""Bytes that pictures take which are decoded side by side, whatever number of threads; a larger one is decoded alone."""
STRIP = 2**18
"""Pixels whose colours are converted in one go."""
PNG = b"\x89PNG\r\n\x1a\n"
LEFT_OUT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"sPLT", b"hIST")
"""Chunks of a PNG that hold no pixel and no colour of one."""
UPRIGHT = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0", b"II*\0", b"MM\0*")
"""How chunks begin that may say which way is up; the last two of EXIF in a chunk of its own."""
MOST_WORDS = 2**20
"""Bytes of such a chunk; EXIF and XMP are a few thousand."""


def decode(data: bytes, near: tuple[int, int] | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a picture.

    Args:
        data: the bytes of an image file.
        near: height and width below which nothing is needed; a JPEG may then be decoded at a half, quarter or eighth.
        size: height and width to resize to, as `resize` does; by default the picture's own.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        ValueError: with the reason, when the bytes are no picture, are cut off, or hold more than MAX_PIXELS.
        MemoryError: with the picture's size, when there is no memory for it.
    """
    with _opened(data, near, MAX_PIXELS) as picture:
        return _pixels(picture) if size is None else np.asarray(_resized(_rgb(picture), size))


def check(data: bytes, most: int = MAX_PIXELS) -> None:
    """See that a picture can be decoded, without making an array of it.

    Args:
        data: the bytes of an image file.
        most: pixels that it may have.

    Raises:
        ValueError: with the reason, where it can't be or has more pixels.
        MemoryError: with its size, where it may have as many but there is no memory for them.
    """
    with _opened(data, (1, 1), most) as picture:
        _rgb(picture.crop((0, 0, picture.width, 1)))


@contextlib.contextmanager
def _opened(data: bytes, near: tuple[int, int] | None, most: int) -> Iterator[Any]:
    """A picture in its own colours, upright, for as long as there is room for it in memory."""
    from PIL import Image, UnidentifiedImageError

    _hush()
    if not data:
        raise ValueError("the file is empty")
    if (form := formats.sniffed(data[: formats.LENGTH])) in formats.FOREIGN:
        raise formats.foreign(str(form))
    Image.MAX_IMAGE_PIXELS = None  # ours is the bound below
    name = "the picture"
    try:
        with _begun(data) as picture:
            whole, name = picture.width * picture.height, f"{picture.width} x {picture.height} pixels"
            if whole > most:
                raise ValueError(f"{name} are more than {most:,}")
            if near:
                side = max(near)  # of both, since the picture may have to be turned
                picture.draft(None, (side, side))
            own = (16 if picture.format in ("WEBP", "PPM") else 8) * picture.width * picture.height
            with _room.of(own + (8 * whole if picture.info.get("progressive") else 0)):
                _turn_and_load(picture)
                _know_samples(picture)
                yield picture
    except MemoryError as error:
        raise MemoryError(name) from error
    except ValueError:
        raise
    except UnidentifiedImageError as error:  # whose own words hold an address in memory
        samples = f", or its samples are not read: {found}" if form == "TIFF" and (found := formats.tiff_samples(data)) else ""
        raise ValueError(f"not a readable picture (of no known format{samples})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise ValueError(f"not a readable picture ({error})") from error


def _begun(data: bytes) -> Any:
    """A picture of which the header was read; of a PNG whose words Pillow refuses without them."""
    from PIL import Image

    if data.startswith(PNG):
        data = _without_words(data)
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _without_words(data: bytes) -> bytes:
    """A PNG without the words, profiles and damaged metadata in it, of which Pillow would refuse some: pixels need none of them.

    What says which way is up stays: EXIF, as a chunk of its own or as ImageMagick and XMP write it.
    """
    kept, start, place = [], 0, len(PNG)
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        end = place + 12 + length
        if end > len(data) or kind == b"IEND":
            break
        if _spared(kind, data[place + 8 : end - 4], int.from_bytes(data[end - 4 : end])):
            kept.append(data[start:place])
            start = end
        place = end
    return b"".join([*kept, data[start:]]) if kept else data


def _spared(kind: bytes, inside: bytes, checksum: int) -> bool:
    """Whether a chunk of a PNG can be left out: words that don't say which way is up, and what is damaged but decides no pixel."""
    if kind[:1].isupper() or kind in (b"tRNS", b"fdAT"):
        return False
    words = kind in LEFT_OUT and not (len(inside) < MOST_WORDS and inside.startswith(UPRIGHT))
    return words or zlib.crc32(kind + inside) != checksum


def _turn_and_load(picture: Any) -> None:
    from PIL import ImageOps

    picture.load()
    with contextlib.suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):  # EXIF that can't be read turns nothing
        ImageOps.exif_transpose(picture, in_place=True)


def _know_samples(picture: Any) -> None:
    """Note in a picture of one channel beyond 8 bits what its white is.

    Raises:
        ValueError: by the name of their type, for samples whose range isn't known.
    """
    tags = getattr(picture, "tag_v2", {})
    if tags.get(254, 0) & 1 or 50706 in tags:  # a reduced version of what stands elsewhere in the file; DNG
        raise formats.foreign("raw camera (a TIFF that begins with a preview)")
    bits, kind = (tags.get(tag, (default,))[0] for tag, default in ((258, 0), (339, 1)))
    advice = "save the picture with 8 bits, with unsigned 16, or as floats from 0 to 1"
    if kind == 2 or (picture.mode == "I" and picture.format == "TIFF"):
        sign = "signed" if kind == 2 else "unsigned"
        raise ValueError(f"its samples are {bits}-bit {sign} whole numbers of no known range; {advice}")
    if picture.mode == "F":
        lowest, highest = _range(picture)
        if not (lowest >= 0 and highest <= 1):
            shown = "some are not finite" if not np.isfinite([lowest, highest]).all() else f"from {lowest:.6g} to {highest:.6g}"
            raise ValueError(f"its samples are floats, {shown}, and only those from 0 to 1 have a known range; {advice}")
        picture.info["white"] = 1
    elif picture.mode.startswith("I"):
        picture.info["white"] = 2**bits - 1 if 8 < bits < 16 else 65535
    picture.info["inverted"] = picture.mode.startswith(("I", "F")) and tags.get(262) == 0


def _range(picture: Any) -> tuple[float, float]:
    """The lowest and the highest sample of one channel; not finite where one isn't."""
    strips = [np.asarray(strip) for _, strip in _cut(picture)]
    bounds = [(float(each.min()), float(each.max())) for each in strips]
    lows, highs = zip(*bounds, strict=True)
    return float(np.min(lows)), float(np.max(highs))


class _Room:
    """Memory that threads share; who finds too little of it free waits."""

    def __init__(self, size: int):
        self.size = self.free = size
        self.turn, self.changed = threading.Lock(), threading.Condition()

    @contextlib.contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Hold so much of it, or all of it where more is asked for."""
        size = min(size, self.size)
        with self.turn, self.changed:  # one waits at a time, so that small ones don't pass a large one for ever
            self.changed.wait_for(lambda: self.free >= size)
            self.free -= size
        try:
            yield
        finally:
            with self.changed:
                self.free += size
                self.changed.notify_all()


_room = _Room(AT_ONCE)


@functools.cache
def _hush() -> None:
    # About metadata that decoding doesn't need. Once for the process: `catch_warnings` isn't safe among decoding threads.
    warnings.filterwarnings("ignore", module="PIL")


def _strips(picture: Any) -> Iterator[tuple[int, Any]]:
    """A picture in RGB, a few rows at a time, each with the number of its first row."""
    yield from ((top, _converted(strip)) for top, strip in _cut(picture))


def _cut(picture: Any) -> Iterator[tuple[int, Any]]:
    rows = max(1, STRIP // picture.width)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(top + rows, picture.height)))


def _pixels(picture: Any) -> np.ndarray:
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    for top, strip in _strips(picture):
        pixels[top : top + strip.height] = np.asarray(strip)
    return pixels


def _rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    whole = Image.new("RGB", picture.size)
    for top, strip in _strips(picture):
        whole.paste(strip, (0, top))
    return whole


def _converted(picture: Any) -> Any:
    from PIL import Image

    if picture.mode.startswith(("I", "F")):  # 16 bits and floats: Pillow's own conversion would clip
        grey = (np.asarray(picture, dtype=np.float64) * (255 / picture.info["white"])).clip(0, 255).round().astype(np.uint8)
        return Image.fromarray(255 - grey if picture.info["inverted"] else grey).convert("RGB")
    if "A" in picture.mode or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _resized(picture: Any, size: tuple[int, int]) -> Any:
    from PIL import Image

    if size == (picture.height, picture.width):
        return picture
    return picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize to exactly height x width, bilinear with antialiasing (Pillow); the whole picture stays, stretched if need be.

    Args:
        pixels: (any, any, 3) uint8.
        height: in pixels.
        width: in pixels.

    Returns:
        (height, width, 3) uint8.
    """
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(_resized(Image.fromarray(pixels), (height, width)))
