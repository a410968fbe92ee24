"""Every task of the project; each session does all of its own set-up with pip."""

import os
import sys
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
PACKAGES = [str(path.parent) for path in sorted(Path().glob("packages/*/pyproject.toml"))]
OLDEST_MLX_AUDIO, NEWEST_MLX_AUDIO = "0.4.8", "0.6.2"  # that the plugin is tested with
BACKEND = "cpu," if sys.platform == "linux" else ""  # on a Mac, mlx brings Metal by itself


def install(session: nox.Session, extras: str, *more: str) -> None:
    """Install the workspace as wheels, as a user would get it."""
    session.install(*PACKAGES, f"./zoo[{BACKEND}{extras}]", *more)


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def demo(session: nox.Session) -> None:
    """Compare nine real voices with the bundled checkpoint."""
    install(session, "plot")
    # With the caller's PATH, so that the commands it suggests are spelled as the caller can run them.
    session.run(f"{session.bin}/speech-zoo", "demo", *session.posargs, env={"PATH": os.environ["PATH"]})


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests, goldens and end-to-end tests; no PyTorch."""
    install(session, "onnx,plot", *group("test"))
    oldest = Path(session.virtualenv.location).resolve() / f"mlx-audio-{OLDEST_MLX_AUDIO}"  # beside the newest
    if not oldest.exists():
        session.run("pip", "install", "-q", "--no-deps", f"--target={oldest}", f"mlx-audio=={OLDEST_MLX_AUDIO}")
    env = {"SPEECH_ZOO_OLDEST_MLX_AUDIO": str(oldest)}
    session.run("pytest", "--ignore=tests/parity", *session.posargs, env=env)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare with the original implementations, live; needs PyTorch."""
    install(session, "onnx", *group("test"), *group("oracles"))
    session.install("--no-deps", *group("oracles-no-deps"))
    session.run("pytest", "tests/parity", *session.posargs)


@nox.session
def goldens(session: nox.Session) -> None:
    """Write tests/goldens anew from the originals; SPEECH_ZOO_CAMPPLUS_PT names campplus_cn_en_common.pt."""
    install(session, "onnx", *group("test"), *group("oracles"))
    session.install("--no-deps", *group("oracles-no-deps"))
    session.chdir("tests")
    session.run("python", "-m", "goldens.make_goldens", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff and mypy."""
    install(session, "plot", *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure memory and speed on this machine, next to torch; arguments go to `speech-zoo bench`."""
    install(session, "onnx", "torch==2.13.0", "transformers>=5")
    session.run("speech-zoo", "bench", *session.posargs)


@nox.session
def upstream(session: nox.Session) -> None:
    """Run mlx-audio's own test suite without our plugin and with it, and compare the outcomes."""
    suite_without_and_with_plugin(session)


def suite_without_and_with_plugin(session: nox.Session) -> None:
    """The same environment, before and after our wheels are installed; fails where a test's outcome differs."""
    names = [nox.project.load_toml(f"{path}/pyproject.toml")["project"]["name"] for path in [*PACKAGES, "zoo"]]
    session.run("pip", "uninstall", "-q", "-y", *names)
    backend = ["mlx[cpu]"] if BACKEND else []
    session.install(f"mlx-audio[all]=={NEWEST_MLX_AUDIO}", *backend, "pytest>=8", "pytest-asyncio>=1", "httpx2<3")
    find = "import importlib.util as u; print(u.find_spec('mlx_audio').submodule_search_locations[0])"
    tests = str(session.run("python", "-c", find, silent=True)).strip()
    reports = [f"{session.create_tmp()}/{name}.json" for name in ("without plugin", "with plugin")]
    session.run("python", "upstream/outcomes.py", "run", tests, reports[0])
    install(session, "onnx")
    session.run("python", "upstream/outcomes.py", "run", tests, reports[1])
    session.run("python", "upstream/outcomes.py", "compare", tests, *reports)
