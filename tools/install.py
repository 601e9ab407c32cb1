"""Build the environment of the Makefile; `make setup` runs it.

Installs the pinned packages, Detectron2 and this project by pip, whose own configuration (a mirror,
a constraint) applies. An installed Detectron2 is kept. Uses the standard library only, and the
syntax of Python 3.6, so that a Python that is too old gets a message.

Exit code 2: something is missing on this machine; 1: pip failed.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The Pythons that every release in requirements.txt has wheels for.
OLDEST, NEWEST = (3, 10), (3, 12)

# Detectron2 has no release on the package index. This is a re-upload of upstream's main of April
# 2024. It is tagged for Python 3.10, but only its compiled `_C`, which nothing here uses, needs it.
WHEEL = "sal-detectron2==0.7.2"
WHEEL_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"

# Untested: written from upstream's instructions, where its repository could not be reached.
OFFICIAL = (
    "git+https://github.com/facebookresearch/detectron2.git"
    "@02b5c4e295e990042a714712c21dc79b731e8833"
)

# Fails without pip.
PROBE = """
import json, pip, sys
found = ""
try:
    from detectron2 import __version__
    found = "other"
    from importlib.metadata import version
    version("sal-detectron2")
    found = "wheel"
except Exception:
    pass
print(json.dumps({"python": sys.version_info[:2], "detectron2": found}))
"""


class Missing(Exception):
    """A requirement that this machine lacks; the message says what to do."""


def check_python(version: tuple) -> None:
    """Raise Missing unless the pinned packages exist for this (major, minor)."""
    if OLDEST <= version <= NEWEST:
        return
    this, oldest, newest = (".".join(map(str, pair)) for pair in (version, OLDEST, NEWEST))
    fault = "old" if version < OLDEST else "new"
    raise Missing(
        f"Python {this} is too {fault} for the pinned packages, which need {oldest} to {newest}: "
        "name another one, as in `make PYTHON=python3.11 setup`."
    )


def check_wheel_platform(system: str, machine: str) -> None:
    """Raise Missing on a platform without a packaged Detectron2."""
    if (system, machine) != ("Linux", "x86_64"):
        raise Missing(
            f"The packaged Detectron2 is for Linux on x86_64 and this is {system} on {machine}: "
            "build it from source by `make setup DETECTRON2=official`."
        )


def check_build_tools() -> None:
    """Raise Missing without the tools to build Detectron2 from source."""
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    missing = []
    if not shutil.which("git"):
        missing.append("git")
    if not any(shutil.which(compiler.split()[0]) for compiler in compilers):
        missing.append(f"a C++ compiler ({' or '.join(compilers)})")
    if missing:
        raise Missing(
            f"Building Detectron2 from source needs {' and '.join(missing)}, not on the PATH: "
            "install it, or leave out DETECTRON2=official."
        )


def check_sha256(path: Path, expected: str) -> None:
    """Raise ValueError unless the file has the expected digest."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(
            f"{path.name} has the sha256 {digest} instead of {expected}: it is not installed."
        )


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], cwd=str(ROOT), check=True)


def pip(python: Path, *arguments: object) -> None:
    run(python, "-m", "pip", *arguments)


def probe(python: Path) -> dict:
    """Return an environment's Python version and importable Detectron2; empty without pip."""
    if not python.exists():
        return {}
    # Another folder than the user's, in which a clone of Detectron2 could be imported.
    result = subprocess.run(
        [str(python), "-c", PROBE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=str(python.parent),
    )
    return {} if result.returncode else json.loads(result.stdout.decode().splitlines()[-1])


def install_wheel(python: Path) -> None:
    """Install the packaged Detectron2 without its compiled part, which fits one Python only."""
    with tempfile.TemporaryDirectory() as folder:
        target = ("--python-version", "3.10", "--only-binary=:all:", "--dest", folder)
        pip(python, "download", WHEEL, "--quiet", "--no-deps", *target)
        (downloaded,) = Path(folder).glob("*.whl")
        check_sha256(downloaded, WHEEL_SHA256)
        run(python, "-m", "wheel", "unpack", downloaded, "--dest", folder)
        (unpacked,) = (path for path in Path(folder).iterdir() if path.is_dir())
        for compiled in unpacked.glob("detectron2/_C*.so"):
            compiled.unlink()
        (info,) = unpacked.glob("*.dist-info/WHEEL")
        lines = info.read_text().splitlines()
        kept = [line for line in lines if line and not line.startswith("Tag:")]
        info.write_text("\n".join([*kept, "Tag: py3-none-any"]) + "\n")
        run(python, "-m", "wheel", "pack", unpacked, "--dest-dir", folder)
        (plain,) = Path(folder).glob("*-py3-none-any.whl")
        pip(python, "install", "--quiet", "--no-deps", plain)


def setup(venv: Path, detectron2: str) -> None:
    """Bring `venv` to the state that the Makefile's targets need.

    Args:
        venv: an environment; made where there is none.
        detectron2: "wheel" or "official": what to install where there is none; "official" also
            replaces the wheel.
    """
    python = venv / "bin" / "python"
    found = probe(python)
    state = found or {"python": sys.version_info[:2], "detectron2": ""}

    # It was built against the torch beside it, which setup.cfg's ranges keep and the pins may not.
    if state["detectron2"] == "other":
        print(f"Keeping the Detectron2 of {venv} and the versions it works with.", flush=True)
        pip(python, "install", "--editable", ".[dev,hotcoco,timm,tools]")
        return

    keep_wheel = state["detectron2"] == "wheel" and detectron2 == "wheel"
    check_python(tuple(state["python"]))
    if detectron2 == "official":
        check_build_tools()
    elif not keep_wheel:
        check_wheel_platform(platform.system(), platform.machine())
    if not found:
        if not (find_spec("venv") and find_spec("ensurepip")):  # as on Debian
            raise Missing(
                f"{sys.executable} cannot make environments: install its venv module "
                "(on Debian and Ubuntu, `apt-get install python3-venv`)."
            )
        run(sys.executable, "-m", "venv", venv)

    print("Installing the pinned packages: several GB and some minutes the first time.", flush=True)
    pip(python, "install", "--quiet", "--constraint", "requirements.txt", "setuptools", "wheel")
    pip(python, "install", "--no-build-isolation", "--requirement", "requirements.txt")
    if detectron2 == "official":
        pip(python, "uninstall", "--yes", WHEEL.split("==")[0])
        # Against the torch that is installed.
        pip(python, "install", "--no-build-isolation", "--no-deps", OFFICIAL)
    elif not keep_wheel:
        install_wheel(python)
    pip(python, "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", ".")
    pip(python, "check")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the environment; see `make help`.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--detectron2", choices=["wheel", "official"], default="wheel")
    args = parser.parse_args()
    try:
        setup(Path(os.path.abspath(str(args.venv.expanduser()))), args.detectron2)
    except (Missing, ValueError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, Missing) else 1
    except subprocess.CalledProcessError as error:
        print(f"This failed, see above: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
