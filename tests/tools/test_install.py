"""Building the environment, up to where pip would start to download; and the doctor."""

import configparser
import importlib.metadata
import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def load_install() -> ModuleType:
    # By its path: the packaged Detectron2 brings a top-level module `tools` of its own.
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load_install()


def run_install(
    *args: object, path: object = os.defpath, **env: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "tools/install.py", *map(str, args)],
        cwd=ROOT,
        env={"PATH": str(path), **env},
        capture_output=True,
        text=True,
    )


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def requirement_lines(text: str) -> dict:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def pinned() -> dict:
    return requirement_lines((ROOT / "requirements.txt").read_text())


def ranges() -> dict:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = "\n".join(config["options.extras_require"].values())
    return requirement_lines(config["options"]["install_requires"] + "\n" + extras)


@pytest.mark.parametrize("name", sorted(ranges()))
def test_pins_lie_in_the_ranges(name: str) -> None:
    (pin,) = pinned()[name].specifier
    assert ranges()[name].specifier.contains(pin.version)


def test_the_package_requires_no_detectron2_and_no_particular_opencv() -> None:
    assert {"torch", "torchvision", "fvcore", "pycocotools"} <= set(ranges())
    assert not [name for name in ranges() if "detectron2" in name or "opencv" in name]


@pytest.mark.parametrize("version, word", [((3, 9), "too old"), ((3, 13), "too new")])
def test_pythons_that_serve(version: tuple, word: str) -> None:
    for minor in (10, 11, 12):
        install.check_python((3, minor))
    with pytest.raises(install.Missing, match=rf"Python 3\.{version[1]} is {word}.*PYTHON="):
        install.check_python(version)


def test_wheel_is_for_one_platform() -> None:
    install.check_wheel_platform("Linux", "x86_64")
    with pytest.raises(install.Missing, match="Darwin on arm64: .* DETECTRON2=official"):
        install.check_wheel_platform("Darwin", "arm64")


def test_building_from_source_names_what_is_missing(tmp_path: Path) -> None:
    venv, programs = tmp_path / "venv", tmp_path / "bin"
    result = run_install("--venv", venv, "--detectron2", "official", path=programs)
    assert result.returncode == 2
    assert "needs git and a C++ compiler (c++ or g++ or clang++), not" in result.stderr
    assert len(result.stderr.splitlines()) == 1

    write_program(programs / "git", "#!/bin/sh\n")
    result = run_install("--venv", venv, "--detectron2", "official", path=programs, CXX="my-c++")
    assert result.returncode == 2
    assert "needs a C++ compiler (my-c++), not on the PATH" in result.stderr
    assert not venv.exists()


def test_another_file_than_the_known_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"abc")
    # The digest of "abc" is the standard's own example.
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    install.check_sha256(wheel, known)
    wheel.write_bytes(b"abd")
    with pytest.raises(ValueError, match="some.whl has the sha256"):
        install.check_sha256(wheel, known)


@pytest.mark.parametrize(
    "found, kept",
    [("other", True), ("wheel", True), ("", False)],
    ids=["an own Detectron2", "the wheel", "none"],
)
def test_an_importable_detectron2_is_kept(tmp_path: Path, found: str, kept: bool) -> None:
    # An environment whose Python only answers the probe, and writes down what else it was asked.
    write_program(
        tmp_path / "bin" / "python",
        f"""#!/bin/sh
        if [ "$1" = -c ]; then
            echo '{{"python": [3, 11], "detectron2": "{found}"}}'
            exit
        fi
        echo "$@" >> {tmp_path}/log
        case "$*" in *download*) exit 1;; esac
        """,
    )
    result = run_install("--venv", tmp_path)
    log = (tmp_path / "log").read_text()
    assert ("pip download sal-detectron2" in log) is not kept
    assert result.returncode == (0 if kept else 1)
    assert ("requirements.txt" in log) is (found != "other")
    assert ("--editable" in log) is kept
    assert (".[dev,hotcoco,timm,tools]" in log) is (found == "other")


def test_a_second_setup_has_nothing_to_do(tmp_path: Path) -> None:
    def planned(target: str) -> str:
        command = ["make", "--dry-run", f"VENV={tmp_path}", "DETECTRON2=wheel", target]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    targets = ["setup", "quickstart", "test", "lint"]
    assert all("tools/install.py" in planned(target) for target in targets)
    stamp = tmp_path / ".asff-wheel"
    stamp.touch()
    assert not any("tools/install.py" in planned(target) for target in targets)
    os.utime(stamp, (0, 0))
    assert all("tools/install.py" in planned(target) for target in targets)


def test_doctor_speaks_where_everything_is_missing() -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-S", "tools/doctor.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1 and "fix: make setup" in result.stdout
    assert "FAIL  torch: ModuleNotFoundError" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_doctor_imports_nothing_of_ours() -> None:
    code = (
        "import runpy, sys; sys.argv = ['doctor']\n"
        "try: runpy.run_path('tools/doctor.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'asff'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Parts" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"
