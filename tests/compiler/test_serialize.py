"""Programs on disk: they come back as they were, and a file that is damaged or hostile is refused and runs nothing."""

from __future__ import annotations

import json
import pickle
import random
import re
import zipfile
from collections import namedtuple
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch
from fxpress import PassManager, Program, capture
from fxpress.errors import InvalidInput, Unsupported
from fxpress.testing import trace
from fxpress.verifier import verify
from torch import nn

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


def again(program, path):
    """Save and load; check that text, structure, numbers and verification are as before. Return the loaded Program."""
    program.save(path)
    loaded = Program.load(path)
    verify(loaded)
    assert loaded.text() == program.text()
    assert (loaded.signature, loaded.outputs) == (program.signature, program.outputs)
    assert (loaded.facts, loaded.history) == (program.facts, program.history)
    for old, new in zip(program.example_inputs, loaded.example_inputs, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)
        assert new.dtype == old.dtype
    before, after = program.run_flat(*program.example_inputs), loaded.run_flat(*loaded.example_inputs)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)
    return loaded


@pytest.fixture
def path(tmp_path):
    return tmp_path / "program.zip"


def test_a_model_with_its_history_and_sources(path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.GELU("tanh"), nn.Flatten())
    program = PassManager("default").run(trace(model, torch.randn(1, 3, 5, 5)))
    loaded = again(program, path)
    assert any(record.changed for record in loaded.history)
    sources = [node.meta.get("source") for node in program.nodes if node.op == "call_function"]
    assert [node.meta.get("source") for node in loaded.nodes if node.op == "call_function"] == sources
    assert any(sources)


def test_constants_that_share_memory(path):
    weight = torch.arange(6.0).reshape(2, 3)

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(weight)
            self.head = self.table
            self.register_buffer("row", weight[1])
            self.register_buffer("column", weight[:, 1])
            self.register_buffer("transposed", weight.t())

        def forward(self, x):
            return x @ self.table + self.head, x * self.row[:2], self.transposed @ x, self.column

    again(trace(Tied(), torch.randn(2, 2)), path)


def test_strides_survive_where_an_op_needs_them(path):
    rows = torch.randn(4, 3)

    def function(x, y):
        return x.t().view(12), y.permute(1, 2, 0).view(-1), rows.t() @ rows

    x, y = torch.randn(3, 4).t().contiguous().t(), torch.randn(2, 3, 4).permute(2, 0, 1)
    loaded = again(trace(function, x, y), path)
    assert [tensor.stride() for tensor in loaded.example_inputs] == [x.stride(), y.stride()]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64],
)
def test_dtypes(path, dtype):
    constant = torch.tensor([1, 0, 1]).to(dtype)
    again(
        trace(
            lambda x: (torch.where(x == constant, x, constant), x.to(torch.float32 if not dtype.is_complex else dtype)),
            constant.flip(0),
        ),
        path,
    )


def test_values_without_a_number_in_json(path):
    nan, inf = float("nan"), float("inf")
    again(
        trace(
            lambda x: (x + nan, x.clamp(-inf, inf), x.masked_fill(x > 0, -inf), x.sum(dtype=torch.float64)),
            torch.randn(3),
        ),
        path,
    )
    again(trace(lambda x: torch.full((2,), inf, dtype=torch.bfloat16, device="cpu") + x, torch.randn(2)), path)


def test_empty_and_scalar_tensors(path):
    empty, scalar = torch.zeros(0, 3), torch.tensor(2.5)
    again(trace(lambda x, y: (x + empty, y * scalar), torch.ones(0, 3), torch.tensor(3)), path)


def test_nested_inputs_and_outputs(path):
    def function(pair, items, scale, *, options):
        total = pair.first + items[0]["a"] * scale + options["b"]
        return {"total": total, "point": Point(total, None), "rest": [total * 2, (1, "text")], "top": total.max(0)}

    x = torch.randn(2)
    call = (Pair(x, x), [{"a": x}, (x,)], 3), {"options": {"b": x}}
    program = capture(function, *call)
    loaded = again(program, path)
    result, expected = loaded.run(*call[0], **call[1]), program.run(*call[0], **call[1])
    assert torch.equal(result["total"], expected["total"])
    assert type(result["point"]) is Point
    assert result["rest"][1] == (1, "text")
    assert type(result["top"]) is torch.return_types.max


def test_ops_with_several_results(path):
    again(trace(lambda x: (x.split(2, 1), x.topk(2), nn.functional.layer_norm(x, (4,))), torch.randn(3, 4)), path)


def test_symbolic_sizes_cannot_be_saved(path):
    program = capture(lambda x: x * 2, (torch.zeros(4, 3),), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    with pytest.raises(
        Unsupported, match=r"^a Program with symbolic sizes cannot be saved; save the model and capture"
    ):
        program.save(path)
    assert not path.exists()


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    simple().save(path)
    content = path.read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *_: exec('raise OSError("disk full")'))
    with pytest.raises(OSError, match="disk full"):
        simple().save(path)
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match=r"^path must be in a writable folder, not '.*'"):
        simple().save(tmp_path / "absent" / "program.zip")
    with pytest.raises(FileNotFoundError):
        Program.load(tmp_path / "absent.zip")


# ----------------------------------------------------------------- files that are no Programs


def simple():
    ones = torch.ones(3)
    return capture(lambda x: torch.relu(x * ones), torch.linspace(-1, 1, 6).reshape(2, 3))


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def rewritten(path):
    """Save `simple()` with its JSON edited, or whole members replaced (None: left out); return the path."""

    def write(edit=lambda document: None, compression=zipfile.ZIP_STORED, **changed):
        simple().save(path)
        files = members(path)
        document = json.loads(files["program.json"])
        edit(document)
        files["program.json"] = json.dumps(document)
        files |= {{"graph": "program.json", "tensors": "tensors.safetensors"}[key]: changed[key] for key in changed}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in files.items():
                if content is not None:
                    archive.writestr(name, content)
        return path

    return write


def refused(path, message):
    with pytest.raises(
        InvalidInput, match=rf"(?s)^{re.escape(str(path))} must be a file written by Program.save, but.*{message}"
    ):
        Program.load(path)


def test_there_is_no_pickle_in_a_file(path):
    simple().save(path)
    assert sorted(members(path)) == ["program.json", "tensors.safetensors"]
    for content in members(path).values():
        with pytest.raises((pickle.UnpicklingError, EOFError, KeyError, ValueError, IndexError)):
            pickle.loads(content)


def test_truncated_files(path):
    simple().save(path)
    content = path.read_bytes()
    for length in [0, 1, 10, *range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path, "")


def test_flipped_bytes_are_refused_or_do_not_matter(path):
    program = simple()
    program.save(path)
    content = path.read_bytes()
    chance = random.Random(0)
    for _ in range(200):
        at = chance.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :])
        try:
            loaded = Program.load(path)
        except InvalidInput:
            continue
        assert loaded.text() == program.text()
        assert torch.equal(loaded.run(*program.example_inputs), program.run(*program.example_inputs))


def test_other_files(path):
    for content in (b"", b"PK", b"not a zip" * 100, pickle.dumps({"format": 1})):
        path.write_bytes(content)
        refused(path, "")
    torch.save(nn.Linear(2, 2).state_dict(), path)
    refused(path, "")


def test_members(rewritten):
    refused(rewritten(tensors=None), "it has no .*tensors.safetensors")
    refused(rewritten(tensors=b"x" * 50), "")
    refused(rewritten(tensors=safetensors.torch.save({})), "it has no 'example.0'|it has no 'constant")


def test_compressed_members(rewritten):
    refused(rewritten(compression=zipfile.ZIP_DEFLATED), r"its member 'program.json' must be stored uncompressed")


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "{", "{}", '{"format": 2}', "[" * 100_000, "nan", "\ud800"])
def test_other_json(rewritten, text):
    refused(rewritten(graph=text.encode("utf8", "surrogatepass")), "")


@pytest.mark.parametrize("key", ["nodes", "signature", "outputs", "facts", "history", "pipeline", "strides"])
def test_every_part_is_needed_and_of_its_kind(rewritten, key):
    refused(rewritten(lambda document: document.pop(key)), f"it has no '{key}'")
    for value in (None, 3, [[]], [{}]):
        refused(rewritten(lambda document, value=value: document.update({key: value})), "")


def node(document, name):
    (found,) = (record for record in document["nodes"] if record["name"] == name)
    return found


def change(name, /, **values):
    return lambda document: node(document, name).update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(format=7), r"its format must be 1, not 7; save it again$"),
        (lambda d: d["nodes"].pop(), r"its last node, and no other, must be the output"),
        (lambda d: d["nodes"].append(d["nodes"][-1]), r"its last node, and no other, must be the output"),
        (lambda d: d["nodes"].reverse(), r"its last node"),
        (lambda d: d.update(nodes=[]), r"its last node"),
        (lambda d: d["nodes"].insert(0, d["nodes"][0]), r"a node's name must be an identifier of its own, not"),
        (lambda d: d["nodes"].pop(-3), r"an argument must be a number, a string, a list or an earlier node, not"),
        (lambda d: d.update(outputs={"kind": "tuple", "items": []}), r"its outputs must be 0, not 1$"),
        (lambda d: d["signature"].update(args={"kind": "tuple", "items": []}), r"its inputs must be 0, not 1$"),
        (change("relu", args=[{"node": "relu"}]), r"an earlier node, not \{'node': 'relu'\}"),
        (change("relu", args=[{"torch": "load"}]), r"not \{'torch': 'load'\}"),
        (change("relu", args=[{"a": 1, "b": 2}]), r"not \{'a': 1, 'b': 2\}"),
        (change("relu", args=[{"float": "1" * 9}]), r"not \{'float': '111111111'\}"),
        (change("relu", args=[{"device": "moon"}]), r"moon"),
        (change("relu", args=[]), r"relu"),
        (change("relu", args=["text"]), r"relu"),
        (change("relu", target="aten.relu_.default"), r"expected a functional op, found aten.relu_.default"),
        (change("relu", target="aten.relu"), r""),
        (change("relu", target="aten.no_such_op.default"), r"no_such_op"),
        (
            change("relu", target="os.system.default"),
            r"op must be registered before the Program is loaded, not 'os.system.default'",
        ),
        (
            change("relu", target="aten.__class__.__name__"),
            r"op must be one of PyTorch's, not 'aten.__class__.__name__'",
        ),
        (
            change("relu", target="aten.from_file.default", args=["made"], kwargs={"dict": {"shared": True}}),
            r"from_file",
        ),
        (
            change("relu", op="call_method", target="numpy"),
            r"must be an input, a constant, an op or .*, not call_method",
        ),
        (change("relu", op="call_module", target="x"), r"must be an input, a constant, an op or .*, not call_module"),
        (change("relu", name="class"), r"a node's name must be an identifier of its own, not 'class'"),
        (change("relu", name="a b"), r"a node's name must be an identifier of its own, not 'a b'"),
        (change("x", target="class"), r"not placeholder 'class'"),
        (change("x", op="output"), r"its last node"),
        (lambda d: d["strides"].update({"example.0": [1, 1]}), r"the strides of example.0 must leave no gaps"),
        (lambda d: d["strides"].update({"example.0": [100, 1]}), r"the strides of example.0 must leave no gaps"),
        (lambda d: d["strides"].update({"example.0": [-1, 3]}), r"the strides of example.0 must leave no gaps"),
        (lambda d: d["strides"].update({"example.0": [1]}), r""),
        (lambda d: d["strides"].update({"example.7": [1]}), r"it has no 'example.7'"),
        (lambda d: d["history"].append({"name": "x"}), r"it has no 'rewrites'"),
    ],
)
def test_graphs_that_are_none(rewritten, edit, message):
    refused(rewritten(edit), message)


INJECTIONS = [
    "x=__import__('pathlib').Path('ran').touch()",
    "x):\n    pass\n__import__('pathlib').Path('ran').touch()\ndef forward(self",
    'x"); __import__("pathlib").Path("ran").touch(); ("',
]


@pytest.mark.parametrize("code", INJECTIONS, ids=["default", "line", "quote"])
def test_names_are_not_run_as_code(rewritten, tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    (constant,) = simple().constants
    for edit in (
        change("x", target=code),
        change("x", name=code),
        change("relu", kwargs={"dict": {code: 1}}),
        change("relu", target=f"aten.{code}.default"),
        change(constant, target=code),
        lambda document: document["signature"].update(positional=[code]),
        lambda document: node(document, "relu").update(source=f"model.py\n{code}"),
    ):
        path = rewritten(edit)
        try:
            Program.load(path).run(*simple().example_inputs)
        except InvalidInput:
            pass
        assert not (tmp_path / "ran").exists()
