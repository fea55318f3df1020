#!/usr/bin/env python3
"""Usage: make_models.py SHAPES.json FOLDER

Writes ONNX models of com.microsoft's MultiHeadAttention into FOLDER, and an index of them. SHAPES.json
is what lowatt_peers_bench --shapes prints. Needs Debian's python3-onnx.
"""
import json
import pathlib
import sys

try:
    from onnx import TensorProto, helper, save
except ImportError:
    sys.exit("lowatt: this Python has no module onnx; Debian's python3-onnx is for /usr/bin/python3")

# Which of the two is faster depends on the shape.
LAYOUTS = {
    "rows": lambda heads, tokens, dim: [1, tokens, heads * dim],
    "heads": lambda heads, tokens, dim: [1, heads, tokens, dim],
}


def chain_length(shape):
    """Attentions in one run, each attending the same keys with the result of the one before, so that
    what a call of run() costs by itself does not count for much."""
    return 8 if shape["queries"] * shape["keys"] < 1 << 20 else 1


def make_model(shape, layout):
    heads, dim = shape["heads"], shape["dim"]
    query_shape = [1, shape["queries"], heads * dim]
    key_shape = LAYOUTS[layout](heads, shape["keys"], dim)
    names = ["q"] + [f"step{i}" for i in range(1, chain_length(shape))] + ["out"]
    nodes = [
        helper.make_node("MultiHeadAttention", [before, "k", "v"], [after], domain="com.microsoft",
                         num_heads=heads) for before, after in zip(names, names[1:])
    ]

    def tensor(name, extents):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, extents)

    graph = helper.make_graph(
        nodes, "attention",
        [tensor("q", query_shape), tensor("k", key_shape), tensor("v", key_shape)],
        [tensor("out", query_shape)])
    # Versions of 2022, which every ONNX Runtime since reads.
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: make_models.py SHAPES.json FOLDER")
    with open(sys.argv[1], encoding="ascii") as file:
        shapes = json.load(file)
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for shape in shapes:
        name = f"{shape['phase']}/{shape['keys']}/{shape['dim']}"
        for layout in LAYOUTS:
            file = f"{name.replace('/', '-')}-{layout}.onnx"
            save(make_model(shape, layout), str(folder / file))
            index.append({**shape, "name": name, "layout": layout, "file": file,
                          "chain": chain_length(shape)})
    (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="ascii")


if __name__ == "__main__":
    main()
