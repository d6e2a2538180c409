"""Artifacts: written, loaded, called, tested."""

from __future__ import annotations

import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import fxpress.runtime
import numpy as np
import pytest
import torch
from fxpress.errors import InvalidArtifact, InvalidInput
from fxpress.runtime.signature import Signature
from fxpress.runtime.structure import LEAF, Structure
from fxpress.runtime.threads import setting


def test_numpy_in_numpy_out(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    x = toy.inputs()
    result = artifact(x)
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, toy.expected(x), rtol=1e-5)
    np.testing.assert_array_equal(artifact(x=x), result)
    np.testing.assert_array_equal(artifact.run_flat(x)[0], result)


def test_results_do_not_share_memory(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    first = artifact(toy.inputs(0))
    copy = first.copy()
    artifact(toy.inputs(1))
    np.testing.assert_array_equal(first, copy)


def test_torch_in_torch_out(toy) -> None:
    x = toy.inputs()
    tensor = torch.from_numpy(x)
    result = fxpress.runtime.load(toy.path)(tensor.requires_grad_())
    assert isinstance(result, torch.Tensor)
    assert not result.requires_grad
    np.testing.assert_allclose(result.numpy(), toy.expected(x), rtol=1e-5)


def test_strided_and_odd_inputs(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    x = toy.inputs()
    result = artifact(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    column_major = np.asfortranarray(x)
    every_second = np.repeat(x, 2, axis=1)[:, ::2]
    for other in (read_only, column_major, every_second, memoryview_like(x)):
        np.testing.assert_array_equal(artifact(other), result)
    tensor = torch.from_numpy(np.repeat(x, 2, axis=1))[:, ::2]
    np.testing.assert_array_equal(artifact(tensor).numpy(), result)
    assert isinstance(artifact(torch.nn.Parameter(torch.from_numpy(x))), torch.Tensor)


def memoryview_like(x: np.ndarray) -> object:
    class Exporter:
        """Has DLPack and nothing else."""

        def __dlpack__(self, **options: object) -> object:
            return x.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return x.__dlpack_device__()

    return Exporter()


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 8, 20, 63])
def test_unaligned_inputs(toy, offset: int) -> None:
    artifact = fxpress.runtime.load(toy.path)
    x = toy.inputs()
    memory = np.zeros(x.nbytes + 64, np.uint8)
    unaligned = memory[offset : offset + x.nbytes].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    np.testing.assert_allclose(artifact(unaligned), toy.expected(x), rtol=1e-5)


class TestWrongInputs:
    @pytest.fixture
    def call(self, toy):
        artifact = fxpress.runtime.load(toy.path)
        x = toy.inputs()

        def refused(message: str, *args: object, **kwargs: object) -> None:
            with pytest.raises(InvalidInput, match=message):
                artifact(*args, **kwargs)
            np.testing.assert_allclose(artifact(x), toy.expected(x), rtol=1e-5)  # and it still works

        return refused

    def test_shape(self, call) -> None:
        call(r"^x must be float32\[4, 16\], not float32\[4, 17\]; the model was", np.zeros((4, 17), np.float32))
        call(r"^x must be float32\[4, 16\], not float32\[64\]; the model was", torch.zeros(64))

    def test_dtype(self, call) -> None:
        call(r"^x must be float32\[4, 16\], not float64\[4, 16\]; convert it with numpy\.asarray", np.zeros((4, 16)))
        call(
            r"^x must be float32\[4, 16\], not int64\[4, 16\]; .*torch\.float32", torch.zeros(4, 16, dtype=torch.int64)
        )
        call(r"^x must be float32\[4, 16\], not >f4\[4, 16\]", np.zeros((4, 16), ">f4"))

    def test_count_and_names(self, call, toy) -> None:
        x = toy.inputs()
        call(r"^argument 'x' is missing: the model must be called with \(x\)$")
        call(r"^the model must be called with \(x\), not with 2 by position$", x, x)
        call(r"^argument must be one of \['x'\], not 'y'$", y=x)
        call(r"^argument 'x' must be given once", x, x=x)

    def test_type(self, call) -> None:
        call(r"^x must be an array of float32\[4, 16\], not float; numpy arrays", 1.0)
        call(r"^x must be a tensor, not list$", x=[[1.0]])
        call(r"^x must be a tensor, not None$", x=None)
        call(r"^x must be on the CPU, not on meta", torch.zeros(4, 16, device="meta"))


def test_nested_signature_and_outputs(write_toy) -> None:
    inner = Structure("dict", (Structure("list", (LEAF, Structure("constant", value=True))),), ("mask",))
    toy = write_toy(
        signature=Signature(("inputs",), Structure("tuple", (inner,)), Structure("dict")).to_json(),
        outputs=Structure("object", (LEAF,), ("logits",), "no_such_package.Output").to_json(),
    )
    artifact = fxpress.runtime.load(toy.path)
    x = toy.inputs()
    outputs = artifact({"mask": [x, True]})
    np.testing.assert_allclose(outputs.logits, toy.expected(x), rtol=1e-5)
    assert outputs["logits"] is outputs[0] is outputs.logits
    with pytest.raises(
        InvalidInput, match=r"^inputs\['mask'\]\[1\] must be True, the value the model was compiled for"
    ):
        artifact(inputs={"mask": [x, False]})


def test_eight_threads(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    wrong: list[object] = []
    start = threading.Barrier(8)

    def work(seed: int) -> None:
        x = toy.inputs(seed)
        right = toy.expected(x)
        start.wait()
        for _ in range(300):
            if not np.allclose(artifact(x), right, rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_num_threads(toy) -> None:
    assert fxpress.runtime.load(toy.path).num_threads >= 1
    for count in (2, 1):
        artifact = fxpress.runtime.load(toy.path, num_threads=count)
        artifact(toy.inputs())
        assert artifact.num_threads == setting.used == count
    with pytest.raises(InvalidInput, match=r"^num_threads must be a positive integer or None, not 0$"):
        fxpress.runtime.load(toy.path, num_threads=0)
    with pytest.raises(InvalidInput, match=r"^verify must be 'code' or 'full', not 'no'$"):
        fxpress.runtime.load(toy.path, verify="no")


def test_thread_counts_give_the_same_results(write_toy) -> None:
    toy = write_toy(parallel=True)
    x = toy.inputs()
    for count in (1, 2, 3, 1):
        np.testing.assert_allclose(fxpress.runtime.load(toy.path, num_threads=count)(x), toy.expected(x), rtol=1e-5)


def test_forked_processes_work(write_toy) -> None:
    code = (
        "import os, sys, fxpress.runtime\n"
        "artifact = fxpress.runtime.load(sys.argv[1], num_threads=2)\n"
        "artifact.self_test()\n"
        "if os.fork() == 0:\n"
        "    artifact.self_test()\n"
        "    fxpress.runtime.load(sys.argv[1], num_threads=3).self_test()\n"
        "    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    result = run_python(code, write_toy(parallel=True).path)
    assert result.stdout == "0\n", result.stderr


def test_self_test(toy, write_toy) -> None:
    result = fxpress.runtime.load(toy.path, verify="full").self_test()
    assert result.passed
    assert result.errors[0] < 1e-6
    strict = write_toy("strict.fxp", tolerances=[-1.0])
    with pytest.raises(InvalidArtifact, match=r"^self-test outputs must be .*: output has a relative error of"):
        fxpress.runtime.load(strict.path).self_test()


def test_profile(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    profile = artifact.profile(repeat=3)
    assert [layer["op"] for layer, _ in profile] == ["add", "add"]
    assert all(seconds > 0 for _, seconds in profile)
    with pytest.raises(InvalidInput, match=r"^the model must be given 1 tensors, not 2$"):
        artifact.profile([toy.inputs(), toy.inputs()])


def test_specs_report_and_text(toy) -> None:
    artifact = fxpress.runtime.load(toy.path)
    assert [str(spec) for spec in artifact.inputs] == ["x: float32[4, 16]"]
    assert [str(spec) for spec in artifact.outputs] == ["output: float32[4, 16]"]
    assert artifact.report() == {"passes": []}
    assert artifact.text() == "a report"
    assert "x: float32[4, 16]" in repr(artifact)


def test_save_outlives_the_original(toy, tmp_path: Path) -> None:
    artifact = fxpress.runtime.load(toy.path)
    toy.path.unlink()
    artifact.save(tmp_path / "copy.fxp")
    copy = fxpress.runtime.load(tmp_path / "copy.fxp", expected_digest=artifact.digest)
    copy.self_test()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.fxp"]
    with pytest.raises(InvalidInput, match=r"^path must be in a writable folder, not "):
        artifact.save(tmp_path / "absent" / "copy.fxp")


def test_closed(toy) -> None:
    with fxpress.runtime.load(toy.path) as artifact:
        artifact(toy.inputs())
    with pytest.raises(InvalidInput, match=r"^artifact must be open to be called, not closed"):
        artifact(toy.inputs())


def test_members_are_aligned_and_equal_contents_make_equal_files(toy, write_toy) -> None:
    data = toy.path.read_bytes()
    with zipfile.ZipFile(toy.path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name_size, extra_size = data[info.header_offset + 26], data[info.header_offset + 28]
            assert (info.header_offset + 30 + name_size + extra_size) % 64 == 0
    assert write_toy("again.fxp").path.read_bytes() == data


_WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", *blocked):
            raise ImportError(f"{name} must not be imported")

blocked = sys.argv[2:]
sys.meta_path.insert(0, Blocker())
import numpy as np
import fxpress.runtime
artifact = fxpress.runtime.load(sys.argv[1])
artifact.self_test()
artifact(np.zeros((4, 16), np.float32))
print(sorted({"torch", "tvm"} & sys.modules.keys()), "libtvm_compiler" in open("/proc/self/maps").read())
"""


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=100
    )


def test_runs_without_torch_and_without_the_compiler(toy) -> None:
    result = run_python(_WITHOUT_TORCH, toy.path)
    assert result.stdout == "[] False\n", result.stderr


def test_installed_torch_is_not_imported(toy) -> None:
    code = "import sys, fxpress.runtime; fxpress.runtime.load(sys.argv[1]).self_test(); print('torch' in sys.modules)"
    result = run_python(code, toy.path)
    assert result.stdout == "False\n", result.stderr


def test_bundled_runtime(toy, write_toy) -> None:
    hide = "import sys; sys.modules['tvm'] = None\n" + _WITHOUT_TORCH.replace('{"torch", "tvm"}', '{"torch"}')
    result = run_python(hide, write_toy("bundled.fxp", bundle_runtime=True).path)
    assert result.stdout == "[] False\n", result.stderr
    result = run_python(hide, toy.path)
    assert "BackendUnavailable: running an artifact needs libtvm_runtime.so: install" in result.stderr


def test_threads_of_the_caller_are_not_bound_to_a_core(toy) -> None:
    code = (
        "import os, sys, fxpress.runtime\n"
        "before = os.sched_getaffinity(0)\n"
        "fxpress.runtime.load(sys.argv[1], num_threads=2).self_test()\n"
        "print(os.sched_getaffinity(0) == before)"
    )
    result = run_python(code, toy.path)
    assert result.stdout == "True\n", result.stderr
