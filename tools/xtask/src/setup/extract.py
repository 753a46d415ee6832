"""Takes the files that a CPU build needs out of wheels, each one checked against the wheel's RECORD.

    whole WHEEL                               exit 0 if the wheel's table of contents can be read
    extract FOLDER [WHEEL FROM=TO ...] ...    `--` before each wheel; a FROM that ends in / is a folder

A member is written to a temporary name and renamed once its sha256 is right, so whatever carries its final
name was verified. One that is there already and right is kept: that is how a killed run goes on. Exit
status 3: a wheel was damaged; it is deleted, to be fetched again.
"""

import base64
import csv
import hashlib
import io
import os
import sys
import time
import zipfile
import zlib

CHUNK = 1 << 20
SOON_DONE = 20 << 20
DAMAGED = 3


class Damaged(Exception):
    pass


def expected_sums(wheel):
    """The sha256 of each member, as the wheel's RECORD states it."""
    records = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
    if len(records) != 1:
        raise Damaged("it holds %d RECORD files instead of one" % len(records))
    sums = {}
    for row in csv.reader(io.StringIO(wheel.read(records[0]).decode("utf-8"))):
        if len(row) >= 2 and row[1].startswith("sha256="):
            code = row[1][len("sha256="):]
            sums[row[0]] = base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)).hex()
    return sums


def chosen(wheel, rules):
    """(member, target path) for every member that a rule asks for; a rule that finds nothing is damage."""
    pairs = []
    for rule in rules:
        source, target = rule.split("=", 1)
        if source.endswith("/"):
            found = [(i, target + i.filename[len(source):]) for i in wheel.infolist()
                     if i.filename.startswith(source) and not i.filename.endswith("/")]
        else:
            found = [(i, target) for i in wheel.infolist() if i.filename == source]
        if not found:
            raise Damaged("it holds no %s" % source)
        for _, path in found:
            if os.path.isabs(path) or ".." in path.split("/"):
                raise Damaged("its member %s would leave the folder" % path)
        pairs += found
    return pairs


def sum_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            chunk = file.read(CHUNK)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)


class Progress:
    def __init__(self, name, n_bytes):
        self.name, self.n_bytes, self.done, self.shown_at, self.shown_quarter = name, n_bytes, 0, 0.0, 0

    def add(self, n_bytes):
        self.done += n_bytes
        if self.n_bytes < SOON_DONE:
            return
        percent = 100 * self.done // self.n_bytes
        line = "extracting %s: %3d %% of %d MB" % (self.name, percent, self.n_bytes // 1000000)
        if sys.stdout.isatty():
            now = time.monotonic()
            if now - self.shown_at > 0.1 or self.done == self.n_bytes:
                self.shown_at = now
                end = "\n" if self.done == self.n_bytes else ""
                print("\r" + line, end=end, flush=True)
        elif percent // 25 > self.shown_quarter:
            self.shown_quarter = percent // 25
            print(line, flush=True)


def write_member(wheel, member, path, expected, progress):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # One fixed temporary name a member: what a killed run left there is overwritten by the next.
    partial = path + ".partial"
    digest = hashlib.sha256()
    with wheel.open(member) as source, open(partial, "wb") as target:
        while True:
            chunk = source.read(CHUNK)
            if not chunk:
                break
            digest.update(chunk)
            target.write(chunk)
            progress.add(len(chunk))
    if digest.hexdigest() != expected:
        os.remove(partial)
        raise Damaged("the sha256 of %s is not the one in RECORD" % member.filename)
    os.replace(partial, path)


def extract_wheel(folder, path, rules):
    """Extracts one wheel and returns its lines for SHA256SUMS."""
    lines = []
    n_kept = 0
    with zipfile.ZipFile(path) as wheel:
        sums = expected_sums(wheel)
        pairs = chosen(wheel, rules)
        progress = Progress(os.path.basename(path).split("-")[0], sum(m.file_size for m, _ in pairs))
        for member, target in pairs:
            expected = sums.get(member.filename)
            if expected is None:
                raise Damaged("%s is not listed in RECORD" % member.filename)
            final = os.path.join(folder, target)
            if os.path.isfile(final) and os.path.getsize(final) == member.file_size and sum_of(final) == expected:
                n_kept += 1
                progress.add(member.file_size)
            else:
                write_member(wheel, member, final, expected, progress)
            lines.append("%s  %s\n" % (expected, target))
    kept = ", %d of them already there" % n_kept if n_kept else ""
    print("%d files of %s verified%s" % (len(lines), progress.name, kept), flush=True)
    return lines


def extract(folder, wheels):
    lines = []
    for path, rules in wheels:
        try:
            lines += extract_wheel(folder, path, rules)
        except (Damaged, zipfile.BadZipFile, zlib.error, EOFError) as error:
            print("\ndamaged wheel %s: %s" % (os.path.basename(path), error), file=sys.stderr)
            os.remove(path)
            return DAMAGED
    partial = os.path.join(folder, "SHA256SUMS.partial")
    with open(partial, "w") as file:
        file.writelines(lines)
    os.replace(partial, os.path.join(folder, "SHA256SUMS"))
    return 0


def main(arguments):
    if arguments[0] == "whole":
        try:
            zipfile.ZipFile(arguments[1]).close()
            return 0
        except (zipfile.BadZipFile, OSError):
            return 1
    groups = []
    for argument in arguments[2:]:
        if argument == "--":
            groups.append([])
        else:
            groups[-1].append(argument)
    try:
        return extract(arguments[1], [(group[0], group[1:]) for group in groups])
    except OSError as error:
        print("\n%s" % error, file=sys.stderr)
        return 1


sys.exit(main(sys.argv[1:]))
