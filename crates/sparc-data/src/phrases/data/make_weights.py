"""Makes the tagger's weights of this folder from the pickle that textblob-aptagger 0.2.0 carries (MIT,
LICENSE-textblob-aptagger). Only needed to make them anew:

    pip download --no-deps --no-binary :all: textblob-aptagger==0.2.0
    tar xzf textblob-aptagger-0.2.0.tar.gz
    python3 crates/sparc-data/src/phrases/data/make_weights.py \\
        textblob-aptagger-0.2.0/textblob_aptagger/trontagger-0.1.0.pickle

With a second argument, a folder, it also writes the three files of JSON that NLTK's PerceptronTagger loads.
"""

import gzip
import json
import pathlib
import pickle
import sys

FOLDER = pathlib.Path(__file__).parent
OF_WORD = ("i word ", "i-1 tag+i word ", "i suffix ", "i pref1 ")


class Plain(pickle.Unpickler):
    """Reads dicts, sets, strings and numbers; anything else could run code."""

    def find_class(self, module, name):
        if (module, name) == ("__builtin__", "set"):
            return set
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in the weights")


def thousandths(weight):
    """The training rounded weights to three decimals: as whole numbers they are exact."""
    whole = round(weight * 1000)
    assert whole / 1000 == weight, weight
    return whole


def save(name, lines):
    """Sorted lines, compressed without a time, so that equal weights are equal files."""
    data = "".join(line + "\n" for line in sorted(lines)).encode()
    (FOLDER / name).write_bytes(gzip.compress(data, 9, mtime=0))


def main():
    with open(sys.argv[1], "rb") as file:
        weights, tagdict, classes = Plain(file, encoding="utf-8").load()
    # Two files, because none in the repository may be above 1 MiB.
    of_word, of_context = [], []
    for feature, labels in weights.items():
        if labels:
            line = feature + "\t" + " ".join(f"{label} {thousandths(labels[label])}" for label in sorted(labels))
            (of_word if feature.startswith(OF_WORD) else of_context).append(line)
    save("weights_word.tsv.gz", of_word)
    save("weights_context.tsv.gz", of_context)
    save("tagdict.tsv.gz", [f"{word}\t{tag}" for word, tag in tagdict.items()])
    (FOLDER / "classes.txt").write_text("".join(label + "\n" for label in sorted(classes)))
    if len(sys.argv) > 2:
        out = pathlib.Path(sys.argv[2])
        out.mkdir(parents=True, exist_ok=True)
        for name, value in [("weights", weights), ("tagdict", tagdict), ("classes", sorted(classes))]:
            (out / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(value))


main()
