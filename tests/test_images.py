"""Odd pictures become upright 8-bit RGB, and what is no picture is refused with a reason."""

import io
import json
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from embedkit import formats, images

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(picture, form="PNG", **options):
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def only_colour(pixels):
    """The one colour of a picture, its height and its width."""
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    assert len(colours) == 1
    return tuple(colours[0].tolist()), *pixels.shape[:2]


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_exact_formats_give_the_exact_pixels(form):
    pixels = noise(5, 7)
    assert (images.decode(encoded(Image.fromarray(pixels), form)) == pixels).all()


def test_a_ppm_gives_the_exact_pixels():
    pixels = noise(5, 7)
    assert (images.decode(encoded(Image.fromarray(pixels), "PPM")) == pixels).all()


@pytest.mark.parametrize(("near", "height"), [(None, 16), ((8, 8), 8)])
def test_an_mpo_is_the_first_of_its_pictures(near, height):
    first, second = (Image.new("RGB", (32, 16), colour) for colour in (BLACK, WHITE))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert only_colour(images.decode(data, near)) == (BLACK, height, 2 * height)


def test_webp_without_loss_gives_the_exact_pixels():
    pixels = noise(5, 7)
    assert (images.decode(encoded(Image.fromarray(pixels), "WEBP", lossless=True, exact=True)) == pixels).all()


def test_a_jpeg_decodes_as_pillow_decodes_it():
    data = encoded(Image.fromarray(noise(20, 30)), "JPEG", quality=90)
    assert (images.decode(data) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_one_pixel_is_a_picture():
    assert only_colour(images.decode(encoded(Image.new("RGB", (1, 1), RED)))) == (RED, 1, 1)


def test_a_very_wide_panorama_is_a_picture():
    assert only_colour(images.decode(encoded(Image.new("RGB", (30_000, 2), BLUE)))) == (BLUE, 2, 30_000)


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (Image.new("L", (3, 2), 77), (77, 77, 77)),
        (Image.new("1", (3, 2), 1), WHITE),
        (Image.new("LA", (3, 2), (0, 255)), BLACK),
        (Image.new("LA", (3, 2), (0, 0)), WHITE),
        (Image.new("RGBA", (3, 2), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (3, 2), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (3, 2), (255, 0, 0, 51)), (255, 204, 204)),
    ],
)
def test_grey_bits_and_transparency_become_rgb_over_white(picture, colour):
    assert only_colour(images.decode(encoded(picture))) == (colour, 2, 3)


def palette(index):
    picture = Image.new("P", (3, 2), index)
    picture.putpalette([*RED, *GREEN])
    return picture


@pytest.mark.parametrize(("index", "colour"), [(0, WHITE), (1, GREEN)])
def test_a_palette_picture_may_have_a_transparent_colour(index, colour):
    assert only_colour(images.decode(encoded(palette(index), transparency=0))) == (colour, 2, 3)
    assert only_colour(images.decode(encoded(palette(index), "GIF", transparency=0))) == (colour, 2, 3)


def test_a_palette_picture_without_transparency_has_its_colours():
    assert only_colour(images.decode(encoded(palette(0)))) == (RED, 2, 3)


def test_an_rgb_picture_may_name_one_colour_as_transparent():
    picture = Image.new("RGB", (3, 2), GREEN)
    assert only_colour(images.decode(encoded(picture, transparency=GREEN))) == (WHITE, 2, 3)
    assert only_colour(images.decode(encoded(picture, transparency=RED))) == (GREEN, 2, 3)


def test_cmyk_becomes_rgb():
    colour, height, width = only_colour(images.decode(encoded(Image.new("CMYK", (16, 8), (0, 255, 255, 0)), "JPEG", quality=95)))
    assert (height, width) == (8, 16) and np.abs(np.array(colour) - RED).max() <= 3


@pytest.mark.parametrize(("level", "grey"), [(65535, 255), (257 * 100, 100), (257, 1), (200, 1), (0, 0)])
def test_sixteen_bits_are_scaled_to_eight_whatever_the_picture_holds(level, grey):
    data = encoded(Image.fromarray(np.full((2, 3), level, np.uint16)))
    assert only_colour(images.decode(data)) == ((grey,) * 3, 2, 3)


def test_a_16_bit_tiff_is_scaled_too():
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    assert (images.decode(encoded(Image.fromarray(ramp), "TIFF"))[:, :, 0] == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(form):
    frames = [Image.new("RGB", (3, 2), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert only_colour(images.decode(data)) == (RED, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_comes_out_upright(orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # white in the top left corner only
    stored = [
        *(upright, upright[:, ::-1], upright[::-1, ::-1], upright[::-1]),
        *(upright.swapaxes(0, 1), np.rot90(upright), upright[::-1, ::-1].swapaxes(0, 1), np.rot90(upright, -1)),
    ][orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "JPEG", exif=exif, quality=95)
    decoded = images.decode(data).astype(int)
    assert decoded.shape == (16, 32, 3)
    assert np.abs(decoded - upright).max() < 40


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_damaged_exif_does_not_spoil_a_photo(exif):
    data = encoded(Image.new("RGB", (8, 8), BLACK), "JPEG", exif=exif)
    assert only_colour(images.decode(data)) == (BLACK, 8, 8)


def test_nothing_is_refused_as_empty():
    with pytest.raises(ValueError, match="^the file is empty$"):
        images.decode(b"")


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ValueError, match="not a readable picture"):
        images.decode(data)


def test_the_reason_is_the_same_every_time():
    def reason():
        with pytest.raises(ValueError, match="not a readable picture") as caught:
            images.decode(b"a text in a file named .jpg")
        return str(caught.value)

    reasons, kept = set(), []
    for _ in range(5):
        kept.append(io.BytesIO())  # so that the memory of one call isn't where the next one's is
        reasons.add(reason())
    assert reasons == {"not a readable picture (of no known format)"}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF"])
@pytest.mark.parametrize("near", [None, (1, 1)])
def test_a_file_that_was_cut_off_is_refused(form, near):
    data = encoded(Image.fromarray(noise(64, 64)), form)
    with pytest.raises(ValueError, match="not a readable picture"):
        images.decode(data[: len(data) // 2], near=near)


def test_a_decompression_bomb_is_refused_unopened():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="^50000 x 50000 pixels are more than 500,000,000$"):
        images.decode(bomb)


def test_no_decoder_starts_another_program(tmp_path, monkeypatch):
    marker, program = tmp_path / "started", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ValueError, match="not a readable picture"):
        images.decode(eps)
    assert not marker.exists()


def test_a_photo_may_be_decoded_smaller_but_never_smaller_than_asked():
    data = encoded(Image.new("RGB", (1600, 800), BLACK), "JPEG")
    assert images.decode(data, near=(100, 100)).shape == (100, 200, 3)
    assert images.decode(data, near=(101, 100)).shape == (200, 400, 3)
    assert images.decode(data, near=(4000, 4000)).shape == (800, 1600, 3)
    assert images.decode(data).shape == (800, 1600, 3)
    assert images.decode(encoded(Image.new("RGB", (160, 80))), near=(1, 1)).shape == (80, 160, 3)


def test_a_rotated_photo_is_never_decoded_smaller_than_asked_either():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 800 x 400, upright 400 wide and 800 high
    data = encoded(Image.new("RGB", (800, 400)), "JPEG", exif=exif)
    height, width, _ = images.decode(data, near=(100, 200)).shape
    assert height >= 100 and width >= 200


def test_decoding_in_threads_leaves_the_warning_filters_alone():
    small, large = (encoded(Image.fromarray(noise(side, side)), "JPEG") for side in (400, 1600))
    images.decode(small)
    before = list(warnings.filters)
    for _ in range(10):
        first, second = (threading.Thread(target=images.decode, args=[data]) for data in (small, large))
        first.start(), second.start(), first.join(), second.join()
        assert list(warnings.filters) == before


def test_resizing_to_the_same_size_changes_nothing():
    pixels = noise(5, 7)
    assert (images.resize(pixels, 5, 7) == pixels).all()


def test_resizing_gives_exactly_the_size_and_keeps_the_whole_picture():
    pixels = np.zeros((40, 10, 3), np.uint8)
    pixels[20:] = 200
    small = images.resize(pixels, 4, 8)
    assert small.shape == (4, 8, 3) and small.dtype == np.uint8
    assert small[0].max() < 30 and small[-1].min() > 170


def test_shrinking_averages_instead_of_skipping_pixels():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small = images.resize(stripes, 8, 8)
    assert np.abs(small.astype(int) - 100).max() <= 5


def test_a_picture_of_one_row_can_be_resized():
    assert images.resize(noise(1, 30_000), 224, 224).shape == (224, 224, 3)


PEAK = """
import io, json, sys
import numpy as np
from PIL import Image
from embedkit import formats, images

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

def encoded(kind, side):
    data, grey = io.BytesIO(), Image.radial_gradient("L").resize((side, side))
    if kind == "16 bits":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(data, "PNG", compress_level=1)
    elif kind == "palette":
        grey.convert("RGB").convert("P").save(data, "PNG", compress_level=1, transparency=0)
    elif kind in ("CMYK", "progressive"):
        grey.convert("CMYK").save(data, "JPEG", progressive=kind == "progressive", subsampling=0)
    elif kind == "WEBP":
        grey.convert("RGB").save(data, "WEBP", method=0)
    else:
        grey.convert(kind).save(data, "PNG", compress_level=1)
    return data.getvalue()

side, kinds = int(sys.argv[1]), sys.argv[2:]
ways = {"check": images.check, "decode": images.decode, "resize": lambda data: images.decode(data, (448, 448), (224, 224))}
found = {}
for kind in kinds:
    for way in ways.values():
        way(encoded(kind, 64))
    data = encoded(kind, side)
    for name, way in ways.items():
        open("/proc/self/clear_refs", "w").write("5")
        before = peak()
        way(data)
        found[f"{name} {kind}"] = peak() - before
print(json.dumps(found))
"""


def peaks(side, *kinds):
    """Bytes by which the memory of a process grows while it decodes pictures of side x side."""
    command = [sys.executable, "-c", PEAK, str(side), *kinds]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("side", "kinds"),
    [
        (2000, ["1", "16 bits", "palette", "RGBA", "CMYK"]),
        pytest.param(6000, ["1", "L", "LA", "16 bits", "palette", "RGB", "RGBA", "CMYK"], marks=pytest.mark.slow),
    ],
)
def test_decoding_takes_no_more_memory_than_is_said(side, kinds):
    for name, size in peaks(side, *kinds).items():
        assert size < 8 * side**2 + 12 * 2**20, name


@pytest.mark.slow
def test_webp_and_progressive_jpeg_take_no_more_memory_than_is_said_either():
    for name, size in peaks(4000, "WEBP", "progressive").items():
        assert size < 16 * 4000**2 + 12 * 2**20, name


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_colours_that_are_converted_in_strips_are_those_of_the_whole(mode, monkeypatch):
    if mode == "I;16":
        picture = Image.fromarray(noise(37, 50)[..., 0].astype(np.uint16) * 201)
    else:
        picture = Image.fromarray(np.concatenate([noise(37, 50), noise(37, 50)[..., :1]], axis=2), "RGBA").convert("RGB")
        picture.putalpha(Image.fromarray(noise(37, 50)[..., 1]))
        picture = picture if mode == "RGBA" else picture.convert(mode)
    data = encoded(picture, "TIFF") if mode in ("CMYK", "I;16") else encoded(picture)
    whole = images.decode(data), images.decode(data, size=(9, 11))
    monkeypatch.setattr(images, "STRIP", 150)  # three rows
    assert (images.decode(data) == whole[0]).all() and (images.decode(data, size=(9, 11)) == whole[1]).all()


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff"])
def test_what_can_not_be_decoded_fails_its_check_with_the_same_reason(data):
    with pytest.raises(ValueError) as decoded:
        images.decode(data)
    with pytest.raises(ValueError) as checked:
        images.check(data)
    assert str(checked.value) == str(decoded.value)


def test_a_picture_of_more_pixels_than_are_wanted_fails_its_check():
    data = encoded(Image.new("L", (30, 20)))
    images.check(data, most=600)
    with pytest.raises(ValueError, match="^30 x 20 pixels are more than 599$"):
        images.check(data, most=599)


def test_threads_share_the_memory_for_decoding_and_who_asks_for_all_of_it_is_alone():
    room, held, seen = images._Room(4), [], []

    def take(size):
        with room.of(size):
            held.append(size)
            seen.append(list(held))
            time.sleep(0.002)
            held.remove(size)

    threads = [threading.Thread(target=take, args=[size]) for size in [1] * 12 + [9] + [3] * 12]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 25 and all(sum(sizes) <= 4 or sizes == [9] for sizes in seen) and room.free == 4


def test_a_picture_that_fails_gives_its_memory_back(monkeypatch):
    monkeypatch.setattr(images, "_room", images._Room(100))
    data = encoded(Image.fromarray(noise(64, 64)))
    for _ in range(3):  # the second would wait for ever
        with pytest.raises(ValueError, match="not a readable picture"):
            images.decode(data[: len(data) // 2])
    assert images.decode(data).shape == (64, 64, 3)


# What samples mean


def tiff(samples, bits, kind, photometric=1, big=False, channels=1, more=()):
    """A TIFF of one strip whose tags say what they are told to: bits, kind (1 unsigned, 2 signed, 3 float), photometric."""
    order = ">" if big else "<"
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    height, width = samples.shape[:2]
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, channels)]
    tags = sorted([*tags, (278, 4, height), (279, 4, len(data)), (339, 3, kind), *more])
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8 + len(data)) + data + struct.pack(order + "H", len(tags))
    lines = [
        struct.pack(order + ("HHIHH" if short == 3 else "HHII"), tag, short, 1, value, *[0] * (short == 3))
        for tag, short, value in tags
    ]
    return head + b"".join(lines) + bytes(4)


RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 0 to 65535 in 256 steps
GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    "data",
    [
        tiff((RAMP / 65535).astype(np.float32), 32, 3),
        tiff((RAMP / 65535).astype(np.float32), 32, 3, big=True),
        tiff(1 - (RAMP / 65535).astype(np.float32), 32, 3, photometric=0),  # 0 is white
        tiff(RAMP, 16, 1),
        tiff(RAMP, 16, 1, big=True),
        tiff(65535 - RAMP, 16, 1, photometric=0),
        b"Pf 16 16 -1.0\n" + (RAMP / 65535).astype("<f4")[::-1].tobytes(),  # from the last row up
        encoded(Image.fromarray(RAMP)),
    ],
)
def test_floats_from_0_to_1_and_unsigned_16_bits_are_greys_whatever_their_order_and_white(data):
    images.check(data)
    assert (images.decode(data) == GREYS[:, :, None]).all()


def test_a_dark_float_picture_stays_dark():
    assert only_colour(images.decode(tiff(np.full((2, 3), 0.1, np.float32), 32, 3))) == ((26, 26, 26), 2, 3)


ONLY = "and only those from 0 to 1 have a known range; save the picture with 8 bits, with unsigned 16, or as floats from 0 to 1"
WHOLE = "whole numbers of no known range; save the picture with 8 bits"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(GREYS.astype(np.float32), 32, 3), f"its samples are floats, from 0 to 255, {ONLY}"),
        (tiff(np.full((2, 2), -0.5, np.float32), 32, 3), f"its samples are floats, from -0.5 to -0.5, {ONLY}"),
        (tiff(np.array([[0, np.nan, 1]], np.float32), 32, 3), f"its samples are floats, some are not finite, {ONLY}"),
        (tiff(np.array([[0, np.inf]], np.float32), 32, 3), f"its samples are floats, some are not finite, {ONLY}"),
        (tiff(GREYS.astype(np.int32), 32, 2), f"its samples are 32-bit signed {WHOLE}"),
        (tiff(GREYS.astype(np.uint32), 32, 1), f"its samples are 32-bit unsigned {WHOLE}"),
        (tiff(RAMP.view(np.int16), 16, 2), f"its samples are 16-bit signed {WHOLE}"),
        (tiff(RAMP.view(np.int16), 16, 2, big=True), f"its samples are 16-bit signed {WHOLE}"),
        (tiff(GREYS.view(np.int8), 8, 2), f"its samples are 8-bit signed {WHOLE}"),
        (tiff(RAMP.astype(np.float64), 64, 3), "or its samples are not read: 64-bit floats"),
        (tiff(np.zeros((2, 2, 3), np.float32), 32, 3, 2, channels=3), "or its samples are not read: 32-bit floats"),
        (tiff(RAMP, 16, 1, more=((254, 4, 1),)), "raw camera \\(a TIFF that begins with a preview\\) is not decoded"),
    ],
)
def test_samples_whose_range_is_not_known_are_refused_by_the_name_of_their_type(data, reason):
    for attempt in (images.check, images.decode):
        with pytest.raises(ValueError, match=reason):
            attempt(data)


def test_a_sample_out_of_range_is_found_in_any_row_of_a_large_picture(monkeypatch):
    monkeypatch.setattr(images, "STRIP", 16)
    samples = np.zeros((9, 8), np.float32)
    samples[8, 7] = 2
    with pytest.raises(ValueError, match="from 0 to 2"):
        images.check(tiff(samples, 32, 3))


# What a file is


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0 ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heic", "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000 (JP2)"),
        (b"\xff\x4f\xff\x51\0", "JPEG 2000 (JP2)"),
        (b"\xff\x0a\0", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\1\0\1\0\x10\x10\0\0\1\0", "icon"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"II*\0\x10\0\0\0CR\2\0", "raw camera"),
    ],
)
def test_a_format_that_is_not_decoded_is_named(data, name):
    with pytest.raises(formats.Foreign) as refused:
        images.check(data)
    assert str(refused.value) == f"not a readable picture ({name} is not decoded; save it as JPEG, PNG or WebP)"


def test_a_bitmap_without_its_file_header_is_a_picture():
    pixels = noise(5, 7)
    assert (images.decode(encoded(Image.fromarray(pixels), "DIB")) == pixels).all()


# Metadata


def chunk(kind, inside, checksum=None):
    return (
        struct.pack(">I", len(inside))
        + kind
        + inside
        + struct.pack(">I", zlib.crc32(kind + inside) if checksum is None else checksum)
    )


def with_chunks(*chunks, place=33):
    """A PNG of noise with chunks behind its header, or elsewhere."""
    data = encoded(Image.fromarray(noise(5, 7)))
    place = place % len(data)
    return data[:place] + b"".join(chunks) + data[place:]


WORDS = zlib.compress(bytes(2**21))


@pytest.mark.parametrize("place", [33, -12])
@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"zTXt", b"Comment\0\0" + WORDS)],
        [chunk(b"iTXt", b"Comment\0\1\0\0\0" + WORDS)],
        [chunk(b"tEXt", b"Comment\0" + bytes(2**21))],
        [chunk(b"zTXt", b"Comment\0\0no zlib at all")],
        [chunk(b"zTXt", f"key {n}".encode() + b"\0\0" + zlib.compress(bytes(2**20 - 1))) for n in range(70)],
        [chunk(b"iCCP", b"profile\0\0" + WORDS)],
        [chunk(b"tIME", b"1234567", checksum=1)],
        [chunk(b"tEXt", b"Comment\0hi", checksum=1)],
        [chunk(b"eXIf", b"Exif no such")],
        [chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")],
        [chunk(b"pHYs", b"12345", checksum=7)],
    ],
)
def test_metadata_that_can_not_be_read_takes_no_pixel_of_a_png_away(chunks, place):
    data = with_chunks(*chunks, place=place)
    images.check(data)
    assert (images.decode(data) == noise(5, 7)).all()


def test_a_png_is_turned_by_its_exif_beside_words_that_are_left_out():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, inside in ((b"eXIf", exif.tobytes()[6:]), (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')):
        assert images.decode(with_chunks(chunk(kind, inside), chunk(b"zTXt", b"Comment\0\0" + WORDS))).shape == (7, 5, 3)


def test_a_damaged_pixel_chunk_is_still_refused():
    data = bytearray(encoded(Image.fromarray(noise(5, 7))))
    data[-20] ^= 1  # in IDAT
    with pytest.raises(ValueError, match="not a readable picture"):
        images.check(bytes(data))


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0no such", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_exif_that_can_not_be_read_turns_nothing(form, exif):
    data = encoded(Image.new("RGB", (16, 8), RED), form, exif=exif)
    assert images.decode(data).shape == (8, 16, 3)
