"""Makes the JPEGs of this folder and prints what Pillow decodes and resizes, as the tables in
decode_tests.rs and resample.rs. Only needed to make new ones: pip install pillow==12.3.0 numpy

    python3 crates/sparc-data/src/golden/make.py
"""

import pathlib

import numpy as np
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).parent


def formula(width, height):
    """Two ramps and a rough texture; the tests have the same formula."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    red = (x * 7 + y * 3) % 256
    green = (x * y * 5) % 251
    blue = ((x // 3 + y // 2) % 2) * 200 + (x + y) % 40
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def digest(image):
    """FNV-1a of the RGB bytes."""
    value = 0xCBF29CE484222325
    for byte in image.convert("RGB").tobytes():
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"0x{value:016x}"


def center_crop(width, height, side):
    """torchvision's Resize(side) and CenterCrop(side) of a PIL image."""
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    resized = formula(width, height).resize(size, Image.Resampling.BICUBIC)
    left, top = int(round((size[0] - side) / 2.0)), int(round((size[1] - side) / 2.0))
    return resized.crop((left, top, left + side, top + side))


def padded(width, height, side):
    """open_clip's ResizeKeepRatio(side, longest=1) and CenterCropOrPad(side, fill=0)."""
    ratio = max(height / side, width / side)
    size = (round(width / ratio), round(height / ratio))
    frame = Image.new("RGB", (side, side))
    resized = formula(width, height).resize(size, Image.Resampling.BICUBIC)
    frame.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return frame


def save(name, image, **options):
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options["exif"] = exif
    image.save(FOLDER / f"{name}.jpg", quality=75, optimize=True, **options)


def main():
    image = formula(37, 29)
    for name, subsampling in [("444", "4:4:4"), ("422", "4:2:2"), ("420", "4:2:0")]:
        save(name, image, subsampling=subsampling)
    save("progressive", image, progressive=True)
    save("grey", image.convert("L"))
    save("cmyk", Image.merge("CMYK", (*image.split(), image.convert("L").point(lambda v: v // 2))))
    save("rgb", image, keep_rgb=True)
    save("restart", image, restart_marker_blocks=2)
    for orientation in range(2, 9):
        save(f"exif{orientation}", formula(19, 13), exif=orientation)

    print("decoded:")
    for path in sorted(FOLDER.glob("*.jpg")):
        upright = ImageOps.exif_transpose(Image.open(path))
        print(f'    golden!("{path.stem}", {upright.width}, {upright.height}, {digest(upright)}),')

    print("reduced (420):")
    for factor in [2, 4, 8]:
        reduced = Image.open(FOLDER / "420.jpg")
        reduced.draft("RGB", (37 // factor, 29 // factor))
        print(f"    ({factor}, {reduced.width}, {reduced.height}, {digest(reduced)}),")

    print("resized:")
    sizes = [(37, 29, 16, 16), (37, 29, 29, 37), (64, 48, 224, 224), (301, 5, 8, 8), (5, 301, 8, 8), (200, 150, 7, 3),
             (1, 1, 4, 4), (64, 48, 64, 20), (64, 48, 20, 48), (100, 100, 99, 101)]
    for width, height, new_width, new_height in sizes:
        resized = formula(width, height).resize((new_width, new_height), Image.Resampling.BICUBIC)
        print(f"    ({width}, {height}, {new_width}, {new_height}, {digest(resized)}),")

    print("plain frames:")
    for width, height, side in [(64, 48, 32), (48, 65, 32), (33, 100, 20), (20, 30, 25)]:
        print(f"    (({width}, {height}), {side}, ResizeMode::CenterCrop, {digest(center_crop(width, height, side))}),")
    for width, height, side in [(64, 48, 33), (31, 90, 24)]:
        print(f"    (({width}, {height}), {side}, ResizeMode::Pad, {digest(padded(width, height, side))}),")
    squashed = formula(64, 48).resize((24, 24), Image.Resampling.BICUBIC)
    print(f"    ((64, 48), 24, ResizeMode::Squash, {digest(squashed)}),")
    cropped = formula(64, 48).crop((7, 5, 47, 36)).resize((24, 24), Image.Resampling.BICUBIC)
    print(f"crop: {digest(ImageOps.mirror(cropped))}")

    print("resized boxes:")
    for box in [(0.5, 0.25, 20.75, 28.0), (3.0, 4.0, 30.0, 20.0), (0.0, 0.0, 18.5, 14.5)]:
        resized = formula(37, 29).resize((16, 12), Image.Resampling.BICUBIC, box=box)
        print(f"    ({list(box)}, {digest(resized)}),")



if __name__ == "__main__":
    main()
