"""The environment of `make test-gpu`: a machine's own PyTorch, and beside it what the tests need besides.

    python3 -m tests.gpu_environment make .venv-gpu [--wheels DIR]   # where the GPU is
    python -m tests.gpu_environment fetch DIR [--python 3.12]        # wheels for it, on a machine with a network

PyTorch is never installed, since a machine with a GPU has the build that fits it. Whatever else is missing is installed
into an environment of its own, from a folder of wheels if there is one, so that no network is needed. This program
needs nothing but Python and pip. What it has to say is one line.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = "torch"
NEEDED = ("grpcio", "hypothesis", "numpy", "protobuf", "pytest", "pytest-timeout")
"""Without these no test runs."""
FRAMEWORKS = ("accelerate", "lightning", "schedulefree", "transformers")
"""Where these or the server's dependencies are not to be had, their tests are skipped."""
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_PIP = ("--quiet", "--disable-pip-version-check", "--no-input")
_ONCE = ("--retries", "0", "--timeout", "15")
"""Where there is no network, nothing is gained by asking again."""


def name_of(requirement: str) -> str:
    """The project that a requirement names, in lower case."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return found[0].lower()


def bounds(pyproject: str) -> dict[str, list[str]]:
    """The requirements of pyproject.toml by extra; those of a bare install have the name ""."""
    import tomllib  # Python has it since 3.11, and that is asked for first

    project = tomllib.loads(pyproject)["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def chosen(extras: dict[str, list[str]], names: Iterable[str]) -> list[str]:
    """The requirements on these projects, each once."""
    found = {name_of(each): each for requirements in extras.values() for each in requirements}
    return [found[name] for name in names]


def number(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, to compare by."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:2])


def described(extras: dict[str, list[str]]) -> str:
    """This interpreter's GPU and PyTorch.

    Raises:
        SystemExit: there is none of them, or PyTorch is too old.
    """
    if importlib.util.find_spec(TORCH) is None:
        raise SystemExit(f"No PyTorch was found in {sys.executable}: name a Python that has it, with PYTHON=.")
    torch = importlib.import_module(TORCH)
    (requirement,) = chosen(extras, [TORCH])
    if number(torch.__version__) < number(requirement.split(">=")[1]):
        raise SystemExit(f"PyTorch {torch.__version__} of {sys.executable} is too old: the client wants {requirement}.")
    if torch.version.cuda is None:
        raise SystemExit(f"PyTorch {torch.__version__} of {sys.executable} was built without CUDA.")
    if not torch.cuda.is_available():
        raise SystemExit(f"No GPU was found: PyTorch {torch.__version__} of {sys.executable} sees no CUDA device.")
    return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, Python {sys.version.split()[0]}"


class Environment:
    """A virtual environment that has all that this interpreter has, and this repository's packages."""

    def __init__(self, folder: Path, wheels: Path | None) -> None:
        """Makes it anew; `wheels`: the folder that packages come from, or None for pip's index."""
        venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(folder)
        self.python = folder.absolute() / "bin" / "python"
        self._source = ("--no-index", "--find-links", str(wheels)) if wheels else _ONCE
        beneath = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (packages,) = folder.glob("lib/python*/site-packages")
        # An interpreter may be a virtual environment itself, which the option for a system's packages would pass over.
        lines = [str(ROOT), str(ROOT / "client"), *(f"import site; site.addsitedir({path!r})" for path in beneath)]
        (packages / "beneath.pth").write_text("".join(f"{line}\n" for line in lines))
        google = importlib.util.find_spec("google")
        if google is not None and google.has_location:  # a regular package would hide the `google` that is installed
            (packages / "google").mkdir()
            (packages / "google" / "__init__.py").write_text(
                '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
            )

    def install(self, requirements: Sequence[str]) -> str:
        """Installs what is missing of some requirements; what is wrong, or nothing."""
        if not requirements:
            return ""
        command = [str(self.python), "-m", "pip", "install", *_PIP, *self._source, *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or done.stderr.splitlines()
        return lines[-1].removeprefix("ERROR: ") if done.returncode else ""


def make(folder: Path, wheels: Path | None) -> None:
    """Makes the environment, and prints what it is.

    Raises:
        SystemExit: something that is needed is missing.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  # it is here that it is said
        raise SystemExit(f"{sys.executable} is Python {sys.version.split()[0]}; LRPilot wants 3.11: give PYTHON=.")
    if wheels is not None and not wheels.is_dir():
        raise SystemExit(f"There is no folder of wheels {wheels}.")
    extras = bounds((ROOT / "pyproject.toml").read_text())
    found = described(extras)
    if importlib.util.find_spec("pip") is None:
        raise SystemExit(f"{sys.executable} has no pip, which installs what is missing.")
    fill(Environment(folder, wheels), extras)
    print(found)


def fill(environment: Environment, extras: dict[str, list[str]]) -> None:
    """Installs what is needed, and what else can be had.

    Raises:
        SystemExit: something that is needed can't be had.
    """
    needed = chosen(extras, NEEDED)
    if wrong := environment.install(needed):
        missing = [each for each in needed if not is_installed(name_of(each))]
        raise SystemExit(
            f"Without {', '.join(missing or needed)} no test runs, and pip says: {wrong}. Fill a folder with wheels "
            "where there is a network (make gpu-wheels WHEELS=DIR), and give it here (make test-gpu WHEELS=DIR)."
        )
    for name, requirements in (("server", extras["server"]), ("frameworks", chosen(extras, FRAMEWORKS))):
        if wrong := environment.install(requirements):
            print(f"Tests that need the {name} are skipped: {wrong}", flush=True)


def is_installed(project: str) -> bool:
    """Whether this interpreter has some version of a project."""
    try:
        importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def fetch(folder: Path, python: str) -> None:
    """Fills a folder with wheels of all that is needed, and of the server's dependencies, for another machine."""
    extras = bounds((ROOT / "pyproject.toml").read_text())
    wanted = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    for platform in _PLATFORMS:
        wanted += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", *_PIP, "--dest", str(folder), *wanted]
    command += ["--constraint", str(ROOT / "constraints.txt"), *chosen(extras, NEEDED), *extras["server"]]
    raise SystemExit(subprocess.run(command).returncode)


def main() -> None:
    """Makes the environment, or fetches wheels for one."""
    parser = argparse.ArgumentParser(description="The environment of `make test-gpu`.")
    commands = parser.add_subparsers(dest="command", required=True)
    here = commands.add_parser("make", help="where the GPU is: PyTorch's interpreter, and what is missing")
    here.add_argument("folder", type=Path)
    here.add_argument("--wheels", type=Path, help="install from this folder, with no network")
    elsewhere = commands.add_parser("fetch", help="where a network is: wheels for that")
    elsewhere.add_argument("folder", type=Path)
    elsewhere.add_argument("--python", default="3.12", help="the other machine's version of Python")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.folder, arguments.wheels)
    else:
        fetch(arguments.folder, arguments.python)


if __name__ == "__main__":
    main()
