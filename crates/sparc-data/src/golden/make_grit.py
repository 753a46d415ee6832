"""Writes golden/grit.parquet as pyarrow writes the metadata of img2dataset: PyArrow 26, Snappy.

    python make_grit.py

The columns are a few of GRIT's. The row of `000000002` has no spans.
"""

import pathlib

import pyarrow
import pyarrow.parquet

SPANS = pyarrow.list_(pyarrow.list_(pyarrow.float64()))
rows = {
    "key": ["000000000", "000000001", "000000002"],
    "caption": ["un café near a red door", "two dogs", "nothing"],
    "noun_chunks": [
        [[0.0, 7.0, 0.1, 0.2, 0.5, 0.9, 0.75], [13.0, 23.0, 0.5, 0.0, 1.0001, 1.0, 0.5]],
        [[0.0, 8.0, 0.0, 0.0, 1.0, 1.0, 0.9]],
        None,
    ],
    "ref_exps": [[[0.0, 23.0, 0.1, 0.2, 0.5, 0.9, 0.75]], [[0.0, 8.0, 0.0, 0.0, 1.0, 1.0, 0.9]], []],
    "clip_similarity_vitb32": [0.3, 0.2, 0.1],
}
schema = pyarrow.schema(
    [
        ("key", pyarrow.string()),
        ("caption", pyarrow.string()),
        ("noun_chunks", SPANS),
        ("ref_exps", SPANS),
        ("clip_similarity_vitb32", pyarrow.float64()),
    ]
)
path = pathlib.Path(__file__).with_name("grit.parquet")
pyarrow.parquet.write_table(pyarrow.table(rows, schema), path, compression="snappy")
