"""Prints the table of `docs/results.md` from finished runs: mean and standard deviation over seeds.

    python tools/results/table.py FOLDER [--labels clip,sparc,…]

FOLDER holds, for each run, `LABEL-SEED.json` (what `sparc eval --json` wrote), `LABEL-SEED.time` ("KiB seconds", from
GNU time) and `LABEL-SEED/metrics.jsonl`. Needs nothing but Python 3.9.
"""

import argparse
import json
import pathlib
import statistics

COLUMNS = {
    "i→t R@1": "image_to_text_R@1",
    "t→i R@1": "text_to_image_R@1",
    "zero-shot": "zeroshot_acc1",
    "pointing": "grounding_pointing_accuracy",
    "mIoU": "segmentation_mIoU",
    "per image": "segmentation_mIoU_per_image",
}


def step_ms(run):
    """Median time of a training step, waiting for data included."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    per_step = lines[0]["samples"] / lines[0]["step"]
    return statistics.median(1e3 * per_step / line["samples_per_s"] for line in lines)


def one(result):
    metrics = json.loads(result.read_text())["metrics"]
    kib = int(result.with_suffix(".time").read_text().split()[0])
    return [100 * metrics[key] for key in COLUMNS.values()], step_ms(result.with_suffix("")), kib / 1024


def cell(values, digits):
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--labels", help="which runs, in this order; all if not given")
    arguments = parser.parse_args()
    runs = {}
    for result in sorted(arguments.folder.glob("*-[0-9].json")):
        runs.setdefault(result.stem.rpartition("-")[0], []).append(one(result))
    print("| run | seeds | " + " | ".join(COLUMNS) + " | step, ms | peak, MiB |")
    print("|---|" + "---|" * (len(COLUMNS) + 3))
    for label in arguments.labels.split(",") if arguments.labels else runs:
        metrics, steps, peaks = zip(*runs[label])
        cells = [cell(values, 2 if "IoU" in name or name == "per image" else 1) for name, values in zip(COLUMNS, zip(*metrics))]
        print(f"| {label} | {len(steps)} | {' | '.join(cells)} | {cell(steps, 0)} | {cell(peaks, 0)} |")


if __name__ == "__main__":
    main()
