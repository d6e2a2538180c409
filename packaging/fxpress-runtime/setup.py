"""Builds the wheel from the sources of the full package and the runtime library of the installed apache-tvm."""

import importlib.util
import re
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

SOURCES = "../../compiler"
CORE_MODULES = {"__init__", "cpu", "errors", "target"}  # what fxpress.runtime imports from outside its folder
LIBRARY = "libtvm_runtime.so"


class BuildRuntime(build_py):
    """Takes from the core only what the runtime needs, and adds TVM's runtime library with its licence."""

    def find_package_modules(self, package, package_dir):
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if package != "fxpress" or module[1] in CORE_MODULES]

    def run(self):
        super().run()
        tvm = Path(importlib.util.find_spec("tvm").origin).parent
        folder = Path(self.build_lib) / "fxpress" / "runtime" / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(tvm / "lib" / LIBRARY, folder)
        for name in ("LICENSE", "NOTICE"):
            shutil.copy(tvm / name, folder / f"{name}.tvm")


class BinaryDistribution(Distribution):
    """Holds a shared library that setuptools does not know of."""

    def has_ext_modules(self):
        return True


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 on this platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    version=re.search(r'^__version__ = "(.+)"$', Path(SOURCES, "__init__.py").read_text(), re.MULTILINE).group(1),
    package_dir={"fxpress": SOURCES},
    packages=["fxpress", "fxpress.runtime", "fxpress.runtime.cuda"],
    package_data={"fxpress": ["py.typed"]},
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildRuntime, "bdist_wheel": PlatformWheel},
)
