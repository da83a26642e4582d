"""Pictures: encoded bytes become pixels, the same everywhere.

Pixels are (height, width, 3) uint8, RGB, upright. One decoder for every stage, so that what was trained on is what is
embedded: JPEG, PNG, GIF and WebP (first frame), MPO (first picture), BMP, TIFF, PPM; grey, palette, CMYK and 16-bit pictures
come out as 8-bit RGB, transparency over white, EXIF rotation applied.
"""

import functools
import io
import warnings

import numpy as np

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""What is decoded, whatever a file is called. Pillow knows more, but some of them start other programs. MPO, several JPEGs in a
file, isn't among its openers: that of JPEG reads it."""
MAX_PIXELS = 500_000_000
"""Largest picture that is decoded, in pixels: 1.5 GB of memory. A 20,000 x 10,000 panorama has 200 million."""


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
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    _hush()
    if not data:
        raise ValueError("the file is empty")
    Image.MAX_IMAGE_PIXELS = None  # ours is the bound below
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are more than {MAX_PIXELS:,}")
            if near:
                side = max(near)  # of both, since the picture may have to be turned
                picture.draft(None, (side, side))
            ImageOps.exif_transpose(picture, in_place=True)
            return np.asarray(_resized(_rgb(picture), size))
    except (ValueError, MemoryError):
        raise
    except UnidentifiedImageError as error:  # whose own words hold an address in memory
        raise ValueError("not a readable picture (of no known format)") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
        raise ValueError(f"not a readable picture ({error})") from error


@functools.cache
def _hush() -> None:
    # About metadata that decoding doesn't need. Once for the process: `catch_warnings` isn't safe among decoding threads.
    warnings.filterwarnings("ignore", module="PIL")


def _rgb(picture):  # PIL.Image.Image -> PIL.Image.Image
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip
        levels, top = np.asarray(picture, dtype=np.float64), 65535
        return Image.fromarray((levels * (255 / top)).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if "A" in picture.mode or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _resized(picture, size: tuple[int, int] | None):  # PIL.Image.Image -> PIL.Image.Image
    from PIL import Image

    if size is None or size == (picture.height, picture.width):
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
