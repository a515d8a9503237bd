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

Convolutions of such weights read their pixels where they are, in panels that stay in
the first cache (`sparsefx/kernels/convolution.cpp`), and do the norm and the ReLU that
follow.

## In int8

With `precision="int8"` a layer may also round weights and activations to 8 bits, where
outputs change by no more than `tolerance`. Four neighbouring inputs then have one
index; weights with zeros in such runs (`granularity: block:1x4`) gain most. Written by
`benchmarks/lowering/products.py --int8`; {int8_device}. In each cell: this product /
torch's dynamically quantised dense layer, both over `F.linear` in float32.

{int8}

Without runs of four, float32 is as fast at 90 % zeros on a processor without VNNI. On
many tokens torch's bf16 layers take five times as long as float32 here: they need
AVX-512 or AMX. So do the products that would make int8 faster still; `sparsefx` has
none for them yet.

## Beside other engines

One token or image, one thread, all in turns in one process, warm; the time of the
process, because the machine was shared and busy; gain over the model under
`torch.compile` in float32. The other engines run the dense model; outputs are compared
with the same weights in float32. Written by `benchmarks/lowering/compare.py`;
{compare_device}. OpenVINO's int8 was calibrated on the input itself.

{compared}

On processors with AMX dense models in bf16 or int8 are several times faster than here,
and were faster than lowered ones where it was tried; these rows say nothing of them.

## Again, on your machine

```sh
python benchmarks/lowering/compare.py vit resnet50 decoder --zeros 0.9
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


def of_torch(name):
    return name.startswith("torch") and name not in ("torch int8", "torch bf16")


def of_ours_in_int8(name):
    return name.startswith("packed") and name.endswith("int8")


def exact_cell(r):
    return f"**{r['gain']:.1f}** / {gain(r, of_torch):.1f}"


def int8_cell(r):
    return f"**{gain(r, of_ours_in_int8):.1f}** / {gain(r, 'torch int8'.__eq__):.1f}"


def gain(r, wanted):
    return r["ms"]["dense"] / min(ms for name, ms in r["ms"].items() if wanted(name))


def products(rows, cell, together, unit):
    """A line for each shape and count of tokens, a column for each share of zeros."""
    shares = sorted({r["zeros"] for r in rows})
    found = {}
    for r in rows:
        key = r[together], r["tokens"], r["shape"]
        found.setdefault(key, {})[r["zeros"]] = cell(r)
    head = " | ".join(f"{share:.0%} zeros".replace("%", " %") for share in shares)
    lines = [
        f"| weight | tokens | {head} |",
        "|---|---:|" + "---:|" * len(shares),
    ]
    for (many, tokens, name), gains in sorted(found.items()):
        name += f", {many} {unit} share zeros" if many > 1 else ""
        cells = " | ".join(gains.get(share, "") for share in shares)
        lines.append(f"| {name} | {tokens} | {cells} |")
    return "\n".join(lines)


def compared(rows):
    """A line for each model and engine, the fastest first."""
    lines = [
        "| model | engine | ms | gain | outputs differ by |",
        "|---|---|---:|---:|---:|",
    ]
    for model in NAMES:
        some = sorted((r for r in rows if r["model"] == model), key=lambda r: r["ms"])
        lines += [
            f"| {NAMES[model]} | {r['engine'].replace('%', ' %')} | {r['ms']:.1f} | "
            f"**{r['gain']:.2f}x** | {r['change']:.0e} |"
            for r in some
        ]
    return "\n".join(lines)


def where(rows):
    """The machine of rows, and their last day."""
    first, day = rows[0], max(r["date"] for r in rows)
    return f"{first['device']} with {first['vectors']}, torch {first['torch']}, {day}"


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


def write(rows, layers, int8_layers, engines, folder):
    """Both files, from the runs of whole models, of single layers, and of engines."""
    rows, layers, engines = sorted(rows, key=order), list(layers), list(engines)
    int8_layers = list(int8_layers)
    text = TEXT.format(
        products=products(layers, exact_cell, "rows", "rows"),
        product_device=where(layers),
        int8=products(int8_layers, int8_cell, "columns", "inputs"),
        int8_device=where(int8_layers),
        compared=compared(engines),
        compare_device=where(engines),
        device=rows[0]["device"],
        date=max(row["date"] for row in rows),
        table=table(rows),
        gap=max(row["gap"] for row in rows),
    )
    (folder / "speed.md").write_text(text)
    (folder / "speed.svg").write_text(figure(rows))
