"""The loader against open_clip's: images a second and peak memory, side by side, on the same shards.

    python benches/peers/loader.py make SHARDS --out DIR     # photographs of 500x375 and of 2000x1500
    python benches/peers/loader.py compare DIR [--json]      # both loaders, one after the other

The peer is the pipeline that open_clip 3.3 sets up (`open_clip_train/data.py`): webdataset 1.0 with tar reading, sample
shuffle (5,000, starting at 1,000), Pillow decoding, open_clip's own `image_transform` (RandomResizedCrop 224, scale 0.9
to 1, bicubic, antialiased; tensor; normalise), its CLIP tokenizer to 77 tokens, batches of 64 in two worker processes.
Ours is `benches/loader.rs` with two decoding threads, started by `compare`; its tokenizer is made from the captions.

Needs torch 2.11, torchvision 0.26, webdataset 1.0, open_clip_torch 3.3, Pillow 12.3. `make` takes photographs from any
shards with a `jpg` and captions: it cuts them to 4:3, resizes them, adds grain of a standard deviation of 4 levels, so
that enlarged pictures have about the bits of real ones, and stores them as JPEG of quality 90, 4:2:0.
"""

import argparse
import glob
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETS = {"500x375": (500, 375, 2_048), "2000x1500": (2_000, 1_500, 384)}
SHARDS = 8
BATCH = 64
WORKERS = 2
SECONDS = 15


def photographs(patterns):
    for path in sorted(path for pattern in patterns for path in glob.glob(pattern)):
        with tarfile.open(path) as tar:
            image = None
            for member in tar:
                data = tar.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    image = data
                elif member.name.endswith(".json") and image:
                    captions = json.loads(data).get("captions")
                    if captions:
                        yield image, captions[0]
                    image = None


def make(arguments):
    import numpy
    import webdataset
    from PIL import Image, ImageOps

    photos = list(photographs(arguments.shards))
    random = numpy.random.default_rng(0)
    for name, (width, height, count) in SETS.items():
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        per_shard = -(-count // SHARDS)
        with webdataset.ShardWriter(str(folder / "train-%05d.tar"), maxcount=per_shard, mtime=0, verbose=0) as writer:
            for index in range(count):
                encoded, caption = photos[index % len(photos)]
                image = Image.open(io.BytesIO(encoded)).convert("RGB")
                image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
                grain = random.normal(0, 4, (height, width, 3))
                image = Image.fromarray(numpy.clip(numpy.asarray(image) + grain, 0, 255).astype(numpy.uint8))
                jpeg = io.BytesIO()
                image.save(jpeg, "JPEG", quality=90)
                writer.write({"__key__": f"{index:06d}", "jpg": jpeg.getvalue(), "txt": caption})
        total = sum(file.stat().st_size for file in folder.glob("*.tar"))
        print(f"{folder}: {count} photographs, {total / count / 1e3:.0f} KB each", flush=True)


def resident_mib(pid):
    """Of a process and its children, shared pages in proportion."""
    total = 0
    for child in [pid, *map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        try:
            rollup = pathlib.Path(f"/proc/{child}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        except OSError:
            pass
    return total / 1024


def cpu_seconds(pid):
    """Of a process and its children."""
    ticks = 0
    for child in [pid, *map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        ticks += sum(map(int, pathlib.Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peer(arguments):
    """Runs in a process of its own and prints one JSON line."""
    import torch
    import webdataset as wds
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transform import image_transform

    torch.set_num_threads(1)
    transform = image_transform(224, is_train=True, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD)
    tokenizer = SimpleTokenizer()
    shards = sorted(str(path) for path in arguments.folder.glob("*.tar"))
    dataset = wds.DataPipeline(
        wds.SimpleShardList(shards * 64),
        wds.shuffle(2_000, initial=500),
        wds.split_by_node,
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.shuffle(5_000, initial=1_000),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=transform, text=lambda text: tokenizer(text)[0]),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH, partial=False),
    )
    loader = wds.WebLoader(dataset, batch_size=None, shuffle=False, num_workers=WORKERS)
    peak, done = 0.0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, resident_mib(os.getpid()))

    base = resident_mib(os.getpid())
    watcher = threading.Thread(target=watch)
    watcher.start()
    batches = iter(loader)
    # Shuffle buffers are full and batches made in advance are used up before time counts.
    for _ in range(4 * WORKERS):
        next(batches)
    rates, all_images, cpu = [], 0, cpu_seconds(os.getpid())
    for _ in range(3):
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS / 3:
            images += len(next(batches)[0])
        all_images += images
        rates.append(images / (time.perf_counter() - started))
    cpu_ms = 1e3 * (cpu_seconds(os.getpid()) - cpu) / all_images
    done.set()
    watcher.join()
    result = {"name": "open_clip 3.3", "images_per_s": statistics.median(rates), "cpu_ms": cpu_ms, "peak_mib": peak - base}
    print(json.dumps({**result, "spread": [min(rates), max(rates)]}), flush=True)
    os._exit(0)


def json_lines(command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def compare(arguments):
    ours = ["cargo", "bench", "--quiet", "-p", "sparc-benches", "--bench", "loader", "--", "--rates"]
    table = {}
    for name in SETS:
        folder = (arguments.folder / name).resolve()
        rows = json_lines([*ours, str(folder)]) + json_lines([sys.executable, __file__, "peer", str(folder)])
        table[name] = {row["name"]: row for row in rows}
    if arguments.json:
        print(json.dumps(table))
        return
    print("| photographs | | images/s | against open_clip | of decoding alone | processor time, ms an image | peak memory, MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in table.items():
        rate = {row: entry["images_per_s"] for row, entry in rows.items()}
        for row, entry in rows.items():
            shares = [rate[row] / rate["open_clip 3.3"], 100 * rate[row] / rate["decoding alone"]]
            cells = f"{rate[row]:.0f} | {shares[0]:.2f} × | {shares[1]:.0f} % | {entry['cpu_ms']:.2f} | {entry['peak_mib']:.0f}"
            print(f"| {name} | {row} | {cells} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make")
    command.add_argument("shards", nargs="+", help="tars with photographs; wildcards expand")
    command.add_argument("--out", type=pathlib.Path, required=True)
    command.set_defaults(run=make)
    command = commands.add_parser("compare")
    command.add_argument("folder", type=pathlib.Path, help="as `make` wrote it")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=compare)
    command = commands.add_parser("peer")
    command.add_argument("folder", type=pathlib.Path)
    command.set_defaults(run=peer)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
