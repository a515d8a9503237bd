"""docs/speed.md and docs/speed.svg from the results of benchmarks/inference.py."""

from html import escape

NAMES = {
    "vit": "ViT, 26 M, 197 tokens",
    "minilm": "MiniLM's shape, 128 tokens",
    "resnet50": "ResNet-50, 224 x 224",
    "decoder": "GPT-like decoder, 1 new token",
}
KINDS = {"blocks": "90 %, 32x32 blocks", "units": "half of the units"}

TEXT = """# Speed of lowered models

`sparsefx.lower(model, example_inputs)` times, for every layer with zeros, what it can
become on this machine, takes the fastest, and compares the whole with the dense
model. Written by `benchmarks/inference.py`; {device}, {date}.

Each row: the dense model under `torch.compile` against the lowered one under
`torch.compile`, in turns, median of the ratio; on one thread the time of the process,
because the machine was shared. Weights are random and their smallest ones zero, the
same share in every layer: speed depends on where zeros are, not on what the weights
learned. *Forms* counts layers. *File* is the compressed file, *memory* what the
lowered model holds, both against the dense model's.

{table}

![Gain over the dense model](speed.svg)

## Reading it

* Outputs differ from the dense model's by at most {gap:.0e} of the largest one.
* A layer that gains little alone stays dense, and a model that gains less than 2 % as
  a whole is left as it was: it then runs the dense code, and what differs from 1.00x
  is noise.
* At batch 1 of a decoder every layer is a matrix times a vector: the dense model
  waits for memory, and so does the sparse one, which also reads an index for every
  weight.
* Zeros in units are cut out, so that what remains is dense and smaller.

The rows above are older than the product below: they were measured with torch's
embedding bag, which is now one candidate of several.

## One layer

A sparse weight times activations adds up few rows of the activations. It is fast when
these are one feature of many tokens, near, and as wide as the registers. Where there is
a C++ compiler, float32 weights are packed for that (`sparsefx/kernels/products.cpp`):
features in blocks, so that the activations which a block reads stay in the first cache;
inside a block the rows that have equally many weights together, so that the end of
their loop is predicted; 16-bit indices, 6 bytes a weight (4.5 where four rows share
their zeros). Activations keep the layout that they have.

Gain of a whole layer over `F.linear`, one thread, medians of forms run in turns;
{product_device}. In each cell:
this product / the best of torch's own operators. Written
by `benchmarks/lowering/products.py`.

{products}

At 50 % zeros and one token the dense product is the faster one; `sparsefx.lower`
measures, and leaves such layers dense. Code for AVX2 also runs where there is AVX-512;
wider vectors were not measured and are not used.

## Again, on your machine

```sh
python benchmarks/inference.py run vit minilm --zeros 0.95 blocks units --batch 1
python benchmarks/inference.py page
```
"""


def zeros(row):
    return KINDS.get(row["zeros"]) or f"{float(row['zeros']):.0%}".replace("%", " %")


def order(row):
    return (list(NAMES).index(row["model"]), row["threads"], row["batch"], zeros(row))


def table(rows):
    head = (
        "| model | zeros | batch | threads | dense ms | lowered ms | gain | forms | "
        "file | memory |\n|---|---|---:|---:|---:|---:|---:|---|---:|---:|"
    )
    lines = [
        f"| {NAMES[r['model']]} | {zeros(r)} | {r['batch']} | {r['threads']} | "
        f"{r['dense_ms']:.1f} | {r['lowered_ms']:.1f} | **{r['gain']:.2f}x** | "
        + ", ".join(f"{count} {name}" for name, count in r["forms"].items())
        + f" | {r['file']:.3f} | {r['memory']:.2f} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def products(rows):
    """A line for each shape and count of tokens, a column for each share of zeros."""
    shares = sorted({r["zeros"] for r in rows})
    found = {}
    for r in rows:
        key = r["rows"], r["tokens"], r["shape"]
        bag = r["ms"]["dense"] / min(
            ms for name, ms in r["ms"].items() if name.startswith("torch")
        )
        found.setdefault(key, {})[r["zeros"]] = f"**{r['gain']:.1f}** / {bag:.1f}"
    head = " | ".join(f"{share:.0%} zeros".replace("%", " %") for share in shares)
    lines = [
        f"| weight | tokens | {head} |",
        "|---|---:|" + "---:|" * len(shares),
    ]
    for (together, tokens, name), gains in sorted(found.items()):
        name += f", {together} rows share zeros" if together > 1 else ""
        cells = " | ".join(gains.get(share, "") for share in shares)
        lines.append(f"| {name} | {tokens} | {cells} |")
    return "\n".join(lines)


def figure(rows):
    left, width, line = 330, 360, 22
    most = max(r["gain"] for r in rows)
    unit = width / max(most, 1)
    high = line * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" '
        f'height="{high}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for number, row in enumerate(rows):
        y = 10 + number * line
        name = f"{NAMES[row['model']]}; {zeros(row)}; batch {row['batch']}"
        name += f", {row['threads']} threads" if row["threads"] > 1 else ""
        color = "#2a6f97" if row["gain"] >= 1.02 else "#9aa5ad"
        long = row["gain"] * unit
        parts += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}'
            "</text>",
            f'<rect x="{left}" y="{y + 2}" width="{long:.0f}" height="15" '
            f'fill="{color}"/>',
            f'<text x="{left + long + 5:.0f}" y="{y + 13}">{row["gain"]:.2f}x</text>',
        ]
    x = left + unit
    parts += [
        f'<line x1="{x:.0f}" y1="6" x2="{x:.0f}" y2="{high - 26}" stroke="#333333" '
        'stroke-dasharray="3 3"/>',
        f'<text x="{x:.0f}" y="{high - 10}" text-anchor="middle">dense</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def write(rows, layers, folder):
    """Both files, from the runs of whole models and those of single layers."""
    rows, layers = sorted(rows, key=order), list(layers)
    text = TEXT.format(
        products=products(layers),
        product_device=f"{layers[0]['device']} with {layers[0]['vectors']}, "
        f"torch {layers[0]['torch']}, {max(r['date'] for r in layers)}",
        device=rows[0]["device"],
        date=max(row["date"] for row in rows),
        table=table(rows),
        gap=max(row["gap"] for row in rows),
    )
    (folder / "speed.md").write_text(text)
    (folder / "speed.svg").write_text(figure(rows))
