"""Makes cases.json: what NLTK makes of captions. Only needed to make it anew:

    pip install nltk==3.10.4
    python3 crates/sparc-data/src/phrases/data/make_weights.py PICKLE WEIGHTS
    python3 crates/sparc-data/src/phrases/golden/make.py WEIGHTS

`make_weights.py` says where the pickle comes from; WEIGHTS is the folder for the weights as JSON. With shards
after it, the same is printed for their captions, a line of JSON each, to compare with on larger data:
`words` of the caption as it is written, their `tags`, and the `phrases` of Listing 1 of arXiv:2410.02746 with
the word lists of appendix A.2 of arXiv:2306.09683.
"""

import json
import pathlib
import random
import sys
import tarfile

import nltk
import nltk.data
from nltk.tag.perceptron import PerceptronTagger
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

FOLDER = pathlib.Path(__file__).parent


def listed(name):
    lines = (FOLDER.parent / "data" / name).read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


class Reference:
    def __init__(self, weights):
        self.generic, self.stop = listed("generic_words.txt"), listed("stop_words.txt")
        parameters = PunktParameters()
        parameters.abbrev_types = listed("abbreviations.txt")
        self.sentences = PunktSentenceTokenizer(parameters)
        self.tokenizer = NLTKWordTokenizer()
        self.tagger = PerceptronTagger(load=False)
        self.tagger.decode_json_params(
            json.loads((weights / f"averaged_perceptron_tagger_eng.{name}.json").read_text())
            for name in ("weights", "tagdict", "classes")
        )
        self.chunker = nltk.RegexpParser("NP: {<DT>?<JJ.*>*<NN.*>+}")

    def words(self, text):
        # As nltk.word_tokenize.
        return [word for sentence in self.sentences.tokenize(text) for word in self.tokenizer.tokenize(sentence)]

    def phrases(self, caption):
        words = [word for word in self.words(caption.lower()) if word not in self.generic]
        if not words:
            return []
        tree = self.chunker.parse(self.tagger.tag(words))
        chunks = [[word for word, _ in chunk.leaves()] for chunk in tree.subtrees(lambda t: t.label() == "NP")]
        return [" ".join(chunk) for chunk in chunks if not self.stop.issuperset(chunk)]

    def case(self, text):
        words = self.words(text)
        tags = [tag for _, tag in self.tagger.tag(words)]
        return {"text": text, "words": words, "tags": tags, "phrases": self.phrases(text)}


CAPTIONS = """
A brown dog runs across the wet grass with a red ball in its mouth .
Two young women in colourful winter jackets are waiting for a bus near the old train station.
The photo shows a wooden table; on it are three green apples, a half-empty bottle of wine and some cheese.
Stock photography of a tiny black-and-white kitten sleeping on a 1950s typewriter, free download in HD
a large red circle above a small blue square
A tall man wearing a hat and a striped shirt is reading today's newspaper.
She can't see the biggest elephant because it's standing behind the children's playground!
This is it. There it is again. Those are these.
A close-up of an oil-painted portrait of Dr. Smith, who is holding a silver pocket watch. Behind him hangs a map.
Buy the original vector illustration online: a smiling yellow sun over snowy mountains
Is that a zebra? No! It is a horse with painted stripes (see the barn on the left).
In 1969 an astronaut walked on the dusty grey surface of the moon; the flag didn't move.
"Look at that!" cried the boy, pointing at 3,500 pink flamingos near the lake's muddy shore...
Someone's gonna clean the kitchen floor, because the cat has spilled a bowl of milk & 12 cookies.
A U.S. Navy ship of approx. 120 m length leaves the harbour at 6 p.m. under a cloudy sky.
The second most beautiful waterfall drops 80.5 feet into a deep turquoise pool surrounded by ferns
Several unusually shaped clouds drift over an almost empty highway -- a lone truck drives east.
A woman with curly red hair, freckles, and green eyes looks directly into the camera
A fire hydrant, a stop sign, two parking meters and a bicycle leaning against a brick wall
Children playing, laughing and running; an ice cream cone melting on the hot sidewalk
Nike running shoes next to an Apple laptop and a Canon camera on John's desk
Grilled salmon fillet with roasted vegetables and lemon butter sauce on a white plate
An aerial view of downtown Chicago at night. The river, lit by street lamps, curves between skyscrapers. No cars.
'Tis the season: a decorated Christmas tree stands by the fireplace, stockings hanging from the mantel
The $20 bill lies beside a 50% discount coupon @ the grocery store #shopping
""".strip().splitlines()

NASTY = [
    "", " ", ".", "...", "?!?!", "-", "--", "'", '"', "''", "``", "a", "A.", "a . b", "dog.", "dog..", "dog. ", "x.y.z",
    "\u00a0caf\u00e9\u2003au\u00a0lait", "\u65e5\u672c\u306e\u732b", "\u0130stanbul", "na\u00efve \u201cquoted\u201d words\u2026", "\U0001f415 runs",
    "a\u0000b", "tab\tand\nline\r\nbreaks", "\u001cseparated\u001fby\u001dunits", "e\u0301 combining", "\u202eright to left",
    "12", "1234", "12-34", "-5", "\u0661\u0662\u0663\u0664", "x\u00b2 \u00b2x", "3rd", "20,000.5", "1:30", "a:b", "a, b,c", "it's'", "'quoted'", "rock 'n' roll",
    "d'ye cannot gimme gotta lemme more'n wanna wanna go wanna", "I'd I'll you're they've isn't WON'T", "(a) [b] {c} <d>",
    "\u00abchevrons\u00bb \u201elow\u201c \u2018single\u2019", "a\u2014b \u2013 c", "*star* ;semi; $5 #1 50% a@b.c", "end).", 'end."', "end.' '", "end. )",
    "the the the", "very very red", "red red red red", "and or not", "s t don", "image picture photo", "www com jpg",
]


def random_texts(count):
    """Pieces that rules look at, in any order: ASCII, as captions are."""
    pieces = [
        "a", "the", "dog", "Red", "cats", "running", "n't", "'s", "'S", "'ll", "'", '"', "''", "``", "`", ".", "..", "...", ",", ":",
        ";", "?", "!", "(", ")", "[", "]", "{", "}", "<", ">", "-", "--", "$", "%", "&", "#", "@", "*", "5", "1999", "3.5", "10,000",
        "e.g.", "Mr.", "cannot", "gonna", "wanna", "'tis", "'twas", "d'ye", "x", "_", "/", "\\", "=", "+", "~", "^", "|",
    ]
    draw = random.Random(7)
    return [
        "".join(draw.choice(pieces) + draw.choice(["", " ", " ", "  "]) for _ in range(draw.randint(1, 12)))
        for _ in range(count)
    ]


def captions_of(shard):
    with tarfile.open(shard) as tar:
        for member in tar:
            if member.name.endswith(".json"):
                yield from json.load(tar.extractfile(member)).get("captions", [])


def main():
    reference = Reference(pathlib.Path(sys.argv[1]))
    if len(sys.argv) > 2:
        for shard in sys.argv[2:]:
            for caption in captions_of(shard):
                print(json.dumps(reference.case(caption), ensure_ascii=False))
        return
    cases = [reference.case(text) for text in CAPTIONS + NASTY]
    cases += [{"text": text, "words": reference.words(text)} for text in random_texts(400)]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")


main()
