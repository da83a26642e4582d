"""Formats of pictures by their first bytes, whatever a file is called.

Those in DECODED are read; those in FOREIGN are known well enough to be named, and are set aside. A sniffed format is what the file
says it is, not a promise that it can be decoded.
"""

import io
import re
from pathlib import Path

LENGTH = 64
"""Bytes that tell a format."""
DECODED = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"(II[*+]\x00|MM\x00[*+])(?!.{4}CR\x02)",
    "BMP": rb"(BM.{12})?[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00(.{4}|.{8})\x01\x00[\x01\x02\x04\x08\x10\x18\x20]\x00",
    "PPM": rb"P[1-6fFy]\s+(#|-?\d)",
}
"""Formats that are decoded (`images`), each with how its files begin. BMP also without its file header, as .dib may be."""
FOREIGN = {
    "AVIF": rb".{4}ftyp(avif|avis)",
    "HEIC": rb".{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)",
    "JPEG 2000 (JP2)": rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n",
    "JPEG XR": rb"II\xbc\x01",
    "raw camera": rb"II\*\x00.{4}CR\x02|.{4}ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\x00|MMOR",
    "Photoshop": rb"8BPS",
    "icon": rb"\x00\x00[\x01\x02]\x00[\x01-\xff]\x00.{3}\x00|icns",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg|<svg)",
    "OpenEXR": rb"v/1\x01",
    "Radiance": rb"#\?(RADIANCE|RGBE)",
    "DDS": rb"DDS \x7c",
    "QOI": rb"qoif",
    "FITS": rb"SIMPLE  =",
    "EPS": rb"%!PS-Adobe|\xc5\xd0\xd3\xc6",
}
"""Formats of pictures that are not decoded, each with how its files begin."""
RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw")
"""What raw files of cameras are called, most of which begin as TIFF does and hold a small preview first."""
_KNOWN = [(name, re.compile(begin, re.DOTALL)) for name, begin in (DECODED | FOREIGN).items()]


class Foreign(ValueError):
    """A picture in a format that is known but not decoded; the message names it."""


def sniffed(data: bytes) -> str | None:
    """The format that the first bytes of a file tell, a name of DECODED or FOREIGN; None where they tell of no picture."""
    return next((name for name, begin in _KNOWN if begin.match(data)), None)


def sniffed_file(path: Path) -> str | None:
    """The format of a file's picture, as `sniffed` tells it.

    Raises:
        OSError: when the file can't be read.
    """
    if path.suffix.lower() in RAW:
        return "raw camera"
    with path.open("rb") as file:
        return sniffed(file.read(LENGTH))


def foreign(name: str) -> Foreign:
    """The reason why a picture in a format of FOREIGN is set aside."""
    return Foreign(f"not a readable picture ({name} is not decoded; save it as JPEG, PNG or WebP)")


def tiff_samples(data: bytes) -> str | None:
    """What the samples of a TIFF are, such as `3 x 32-bit float`; None where it doesn't say."""
    from PIL import TiffImagePlugin

    kinds = {1: "unsigned whole numbers", 2: "signed whole numbers", 3: "floats", 5: "complex numbers", 6: "complex numbers"}
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8] if data[2] != 43 else data[:16])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, kind = (found if isinstance(found := tags.get(tag, 1), tuple) else (found,) for tag in (258, 339))
        times = f"{len(bits)} x " if len(bits) > 1 else ""
        return f"{times}{next(iter(bits))}-bit {kinds.get(next(iter(kind)), 'samples of an unknown type')}"
    except Exception:  # whatever Pillow says of a directory that is none
        return None
