"""Runs the criterion benches of the objectives and their PyTorch peers, and prints both with their ratios.

    python benches/peers/compare.py [--threads 2] [--run] [NAME ...]

Names are those of `benches/peers/objectives.py` without the batch; all if none. With --run the peers and our benches of
a name are measured right after each other; without it, what an earlier run left under target/criterion is read and
only the peers are run. Needs torch 2.11 in this Python.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["clip", "siglip", "filip", "pacl", "gloria_local", "sparc_local", "sparc_local_mixed"]


def ours_ms(case, what):
    file = ROOT / "target" / "criterion" / case.split("/")[0] / what / case.split("/")[1] / "new" / "estimates.json"
    return json.loads(file.read_text())["median"]["point_estimate"] / 1e6


def run(command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def bench(arguments, threads):
    return run(["cargo", "bench", "--quiet", "-p", "sparc-benches", "--bench", "objectives", "--", *arguments], threads)


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", action="store_true")
    arguments = parser.parse_args()
    peaks = {line["name"]: line["peak_mib"] for line in json_lines(bench(["--peak"], arguments.threads))}
    print("| case | forward+backward ms, ours | PyTorch eager | ratio | peak MiB, ours | PyTorch eager | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.names or NAMES:
        if arguments.run:
            bench([f"^{name}/"], arguments.threads)
        batches = [case for case in peaks if case.split("/")[0] == name and "b32768" not in case]
        peers = [f"{name}_{case.split('/')[1].split('_')[0]}" for case in batches]
        command = [sys.executable, "benches/peers/objectives.py", "--threads", str(arguments.threads), *peers]
        for case, peer in zip(batches, json_lines(run(command, arguments.threads))):
            ours, theirs = ours_ms(case, "forward+backward"), peer["forward_backward_ms"]
            peak, peer_peak = peaks[case], peer["peak_mib"]
            print(
                f"| {case} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} × faster "
                f"| {peak:.0f} | {peer_peak:.0f} | {peak / peer_peak:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
