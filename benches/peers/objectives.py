"""The objectives in PyTorch eager, as their papers' listings write them: the peers of `benches/objectives.rs`.

    python benches/peers/objectives.py [--threads 2] [--repeats 15] [NAME ...]

Needs torch 2.11, the release that LibTorch here is taken from. Prints one JSON line per case: `forward_ms` and
`forward_backward_ms` are medians over repeats after two warm-up runs; `peak_mib` is by how much the peak resident
memory of a process of its own, inputs and their gradients made before, grows in one forward and backward. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from torch.nn import functional as F


def masked_pairwise_contrastive_loss(a, b, mask, inverse_temperature):
    """SPARC, listing 1: a[b, j] against b[b, k] of its own caption, labels on the diagonal."""
    batch, length, _ = a.shape
    logits = torch.einsum("bmd,bnd->bmn", a, b) * inverse_temperature
    logits = logits.masked_fill(~mask[:, None, :], -1e9)
    labels = torch.arange(length).repeat(batch)
    loss = F.cross_entropy(logits.view(batch * length, length), labels, reduction="none").view(batch, length)
    return (loss * mask).sum() / mask.sum()


def sparc_local(patches, tokens, mask, inverse_temperature):
    """SPARC's fine-grained loss (Bica et al. 2024, arXiv:2401.09865, listing 1), threshold 1/P."""
    similarity = torch.einsum("btd,bpd->btp", tokens, patches)
    low, high = similarity.amin(-1, keepdim=True), similarity.amax(-1, keepdim=True)
    similarity = (similarity - low) / (high - low)
    similarity = torch.where(similarity < 1 / patches.shape[1], 0.0, similarity)
    weights = similarity / similarity.sum(-1, keepdim=True)
    grouped = F.normalize(torch.einsum("btp,bpd->btd", weights, patches), dim=-1)
    tokens = F.normalize(tokens, dim=-1)
    image_to_text = masked_pairwise_contrastive_loss(grouped, tokens, mask, inverse_temperature)
    text_to_image = masked_pairwise_contrastive_loss(tokens, grouped, mask, inverse_temperature)
    return 0.5 * (image_to_text + text_to_image)


def sparc_local_case(batch, length, patches, width, lengths):
    """Standard normal embeddings, inverse temperature 14; `lengths` are the captions' valid tokens."""
    leaves = [torch.randn(batch, patches, width), torch.randn(batch, length, width), torch.tensor(14.0)]
    for leaf in leaves:
        leaf.requires_grad_()
        leaf.grad = torch.zeros_like(leaf)
    patches_bpd, tokens_bld, scale = leaves
    mask = torch.arange(length)[None, :] < torch.tensor([lengths(i) for i in range(batch)])[:, None]
    return leaves, lambda: sparc_local(patches_bpd, tokens_bld, mask, scale)


def symmetric_cross_entropy(rows, columns=None):
    """CE of a score matrix along its rows, and along its columns (or the rows of another matrix)."""
    labels = torch.arange(rows.shape[0])
    return F.cross_entropy(rows, labels) + F.cross_entropy(rows.t() if columns is None else columns, labels)


def clip(image, text, scale):
    """As open_clip's ClipLoss in one process: both matrices of logits are products."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return 0.5 * symmetric_cross_entropy(scale * image @ text.t(), scale * text @ image.t())


def siglip(image, text, scale, bias):
    """As open_clip's SigLipLoss in one process."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = scale * image @ text.t() + bias
    labels = 2 * torch.eye(len(image)) - 1
    return -F.logsigmoid(labels * logits).sum() / len(image)


def filip(patches, tokens, mask, scale):
    """Yao et al. 2022, equations 3-5, by one einsum over all pairs."""
    patches, tokens = F.normalize(patches, dim=-1), F.normalize(tokens, dim=-1)
    similarity = torch.einsum("ipd,jld->ijpl", patches, tokens)
    over_words = similarity.masked_fill(~mask[None, :, None, :], -1e9).max(-1).values.mean(-1)
    over_patches = (similarity.max(2).values * mask).sum(-1) / mask.sum(-1)
    return 0.5 * symmetric_cross_entropy(scale * over_words, scale * over_patches.t())


def pacl(patches, text, scale):
    """Mukhoti et al. 2023: the patches of every image pooled for every text."""
    text = F.normalize(text, dim=-1)
    weights = torch.einsum("ipd,jd->ijp", F.normalize(patches, dim=-1), text).softmax(-1)
    pooled = F.normalize(torch.einsum("ijp,ipd->ijd", weights, patches), dim=-1)
    return 0.5 * symmetric_cross_entropy(scale * torch.einsum("ijd,jd->ij", pooled, text))


def gloria_local(patches, tokens, mask, attention_scale, word_scale, scale):
    """Huang et al. 2021 with SPARC's division by the root of the width; contexts of all words in all images."""
    similarity = torch.einsum("jld,ipd->ijlp", tokens, patches) / patches.shape[-1] ** 0.5
    contexts = torch.einsum("ijlp,ipd->ijld", (attention_scale * similarity).softmax(-1), patches)
    cosine = F.cosine_similarity(contexts, tokens[None], dim=-1)
    scores = (word_scale * cosine).masked_fill(~mask[None], -1e9).logsumexp(-1)
    return symmetric_cross_entropy(scale * scores)


def leaves_of(*shapes):
    """Standard normal leaves with gradients to add to, as in every step of a training but the first."""
    leaves = [torch.randn(shape) for shape in shapes]
    for leaf in leaves:
        leaf.requires_grad_()
        leaf.grad = torch.zeros_like(leaf)
    return leaves


def pooled_case(loss, scalars):
    def case(batch, _length, _patches, width, _lengths):
        leaves = leaves_of((batch, width), (batch, width), *[()] * scalars)
        return leaves, lambda: loss(*leaves)

    return case


def tokens_case(loss, scalars):
    def case(batch, length, patches, width, _lengths):
        leaves = leaves_of((batch, patches, width), (batch, length, width), *[()] * scalars)
        mask = torch.ones(batch, length, dtype=torch.bool)
        return leaves, lambda: loss(*leaves[:2], mask, *leaves[2:])

    return case


def pacl_case(batch, _length, patches, width, _lengths):
    leaves = leaves_of((batch, patches, width), (batch, width), ())
    return leaves, lambda: pacl(*leaves)


def cases(name, case, batches, lengths=None):
    return {f"{name}_b{b}": (case, (b, 55, 196, 512), lengths) for b in batches}


CASES = {
    **cases("clip", pooled_case(clip, 1), (1024, 2048, 4096)),
    **cases("siglip", pooled_case(siglip, 2), (1024, 2048, 4096)),
    **cases("filip", tokens_case(filip, 1), (32, 64, 128)),
    **cases("pacl", pacl_case, (64, 128, 256)),
    **cases("gloria_local", tokens_case(gloria_local, 3), (16, 32, 64)),
    # Every token valid, and captions of 10 to 25 tokens as they are common in web data.
    **cases("sparc_local", sparc_local_case, (16, 32, 64), lambda i: 55),
    **cases("sparc_local_mixed", sparc_local_case, (16, 32, 64), lambda i: 10 + 7 * i % 16),
}


def status_kib(field):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def peak_mib(run):
    """By how much one run raises the peak resident memory above what is resident before it."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
        clear.write("5")
    before = status_kib("VmRSS")
    run()
    return (status_kib("VmHWM") - before) / 1024


def median_ms(run, repeats):
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        run()
        if i >= 2:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def measure(name, repeats):
    torch.manual_seed(0)
    case, sizes, lengths = CASES[name]
    leaves, loss = case(*sizes, lengths)

    def forward_backward():
        loss().backward()

    def forward():
        with torch.no_grad():
            return loss().item()

    small_leaves, small_loss = case(2, *sizes[1:], lengths)
    small_loss().backward()  # Threads and library workspaces exist before memory is counted.
    del small_leaves, small_loss
    peak = peak_mib(forward_backward)
    sizes = dict(zip("BLPD", sizes))
    times = {"forward_ms": median_ms(forward, repeats), "forward_backward_ms": median_ms(forward_backward, repeats)}
    print(json.dumps({"name": name, **sizes, **times, "peak_mib": peak}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all if none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--one", action="store_true", help="measure in this very process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = arguments.names or list(CASES)
    if arguments.one:
        measure(names[0], arguments.repeats)
        return
    flags = ["--one", "--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    for name in names:
        subprocess.run([sys.executable, __file__, *flags, name], check=True)


if __name__ == "__main__":
    main()
