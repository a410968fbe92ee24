"""What the end-to-end tests share: the command in a fresh process, voices, and a tiny ResNet in its source form."""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import speech_zoo
from corpora import CLIPS, Rows, write_corpus
from huggingface_hub import close_session, constants, hf_api
from loopback_hub import LoopbackHub
from safetensors.numpy import save
from source_weights import source_weights
from speech_zoo.cli.main import main
from wavs import read_wav, write_wav

COMMAND = Path(sys.executable).with_name("speech-zoo")
NOWHERE = "http://127.0.0.1:9"  # nobody listens on the discard port: no test can reach the real Hub
# What would change the output, or lead the client to another Hub than the test's.
UNWANTED = re.compile(r"HF_|HUGGING|FORCE_COLOR|NO_COLOR|PY_COLORS|GITHUB_ACTIONS|COLUMNS|LINES|PYTHON|TQDM_|.*_PROXY")
HUB = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE")  # where the client looks


@contextlib.contextmanager
def hub_client(env: dict[str, str]) -> Iterator[None]:
    """Has the client of this process read these variables of `HUB`, which it does once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(lambda name: UNWANTED.match(name.upper()), [*os.environ]):
            patch.delenv(name)
        # Else it asks the Hub for names of agents, once in a process, and keeps whatever is the answer.
        for name, value in {"HF_HUB_DISABLE_TELEMETRY": "1", **env}.items():
            patch.setenv(name, value)
        for handler in logging.getLogger("huggingface_hub").handlers:
            patch.setattr(handler, "stream", sys.stderr)
        _read_variables()
        try:
            yield
        finally:
            patch.undo()
            _read_variables()


def _read_variables() -> None:
    importlib.reload(constants)
    hf_api.api.endpoint = constants.ENDPOINT
    close_session()


@dataclass(frozen=True)
class Result:
    """What a process left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def succeeded(self) -> "Result":
        """Exit status 0 and nothing on stderr."""
        assert (self.status, self.err) == (0, "")
        return self

    def failed(self, status: int = 1) -> str:
        """An error as users get it, one line on stderr and nothing on stdout; returns what the line says."""
        assert self.status == status, (self.out, self.err)
        assert re.fullmatch(r"error: [^\n]+\n", self.err), self.err
        assert self.out == ""
        return self.err.removeprefix("error: ").strip()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every process: no Hub within reach, an empty cache, a new user, no terminal settings."""
    kept = {name: value for name, value in os.environ.items() if not UNWANTED.match(name.upper())}
    folders = {name: str(tmp_path_factory.mktemp(name)) for name in ("HF_HOME", "SPEECH_ZOO_HOME")}
    return kept | folders | {"HF_ENDPOINT": NOWHERE}


@pytest.fixture(scope="session")
def run_process(environment: dict[str, str]) -> Callable[..., Result]:
    """Run a program in a fresh process, without a terminal."""

    def run(arguments: list[Any], cwd: Path, env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [str(argument) for argument in arguments],
            cwd=cwd,
            env=environment | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def fresh_cli(run_process: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """`fresh_cli("embed", "a.wav")` runs `speech-zoo embed a.wav` in `tmp_path`, in a fresh process."""

    def run(*arguments: Any, env: dict[str, str] | None = None) -> Result:
        return run_process([COMMAND, *arguments], tmp_path, env)

    return run


@pytest.fixture
def cli(
    fresh_cli: Callable[..., Result],
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    """As `fresh_cli`, but in this process, unless it is given variables other than SPEECH_ZOO_HOME and `HUB`."""

    def run(*arguments: Any, env: dict[str, str] | None = None) -> Result:
        if env and env.keys() - {"SPEECH_ZOO_HOME", *HUB}:
            return fresh_cli(*arguments, env=env)
        out, err = io.StringIO(), io.StringIO()
        variables = environment | (env or {})
        with (
            monkeypatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            hub_client({name: value for name, value in variables.items() if name in HUB}),
        ):
            patch.chdir(tmp_path)
            patch.setenv("SPEECH_ZOO_HOME", variables["SPEECH_ZOO_HOME"])
            patch.setattr(sys, "argv", ["speech-zoo", *map(str, arguments)])
            with pytest.raises(SystemExit) as end:
                main()
        return Result(end.value.code or 0, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a new user's own data; not made yet."""
    return tmp_path / "home"


@pytest.fixture
def voices_cli(cli: Callable[..., Result], home: Path) -> Callable[..., Result]:
    """`voices_cli("list")` runs `speech-zoo voices list` with a user's folder of its own."""

    def run(*arguments: Any) -> Result:
        return cli("voices", *arguments, env={"SPEECH_ZOO_HOME": str(home)})

    return run


@pytest.fixture
def python(run_process: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """`python("code", "argument")` runs the code in `tmp_path`, with the arguments in `sys.argv[1:]`."""

    def run(code: str, *arguments: Any, env: dict[str, str] | None = None) -> Result:
        return run_process([sys.executable, "-c", code, *arguments], tmp_path, env)

    return run


@pytest.fixture
def unchanged(tmp_path: Path) -> Callable[[], None]:
    """Call it to assert that nothing below `tmp_path`, hidden files included, has changed since the last call."""
    before: list[dict[str, bytes | None]] = []

    def check() -> None:
        now = {
            str(path.relative_to(tmp_path)): path.read_bytes() if path.is_file() else None
            for path in tmp_path.rglob("*")
        }
        for earlier in before:
            assert now.keys() == earlier.keys()
            assert now == earlier
        before[:] = [now]

    return check


@pytest.fixture(scope="session")
def voices() -> list[Path]:
    """The nine clips that ship with the package, one speaker each."""
    spec = importlib.util.find_spec("speech_zoo")
    assert spec is not None and spec.origin is not None
    files = sorted((Path(spec.origin).parent / "data" / "voices").glob("*.wav"))
    assert len(files) == 9
    return files


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory, voices: list[Path]) -> dict[str, Path]:
    """The halves of two voices, cut to 2.5 seconds: a1 and a2 are one speaker, b1 and b2 another."""
    folder = tmp_path_factory.mktemp("halves")
    files = {}
    for name, voice in zip("ab", voices[:2], strict=True):
        samples = read_wav(voice)
        for number, half in enumerate(np.array_split(samples, 2), start=1):
            files[f"{name}{number}"] = write_wav(folder / f"{name}{number}.wav", half[:40000])
    return files


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, voices: list[Path]) -> Path:
    """One second of a voice."""
    return write_wav(tmp_path_factory.mktemp("clip") / "clip.wav", read_wav(voices[0])[16000:32000])


CONFIG = SimpleNamespace(
    model_type="resnet34",
    block="basic",
    num_blocks=[1, 1, 1, 1],
    m_channels=4,
    feat_dim=80,
    embed_dim=16,
    two_emb_layer=False,
    pooling_func="TSTP",
)
CONFIG_YAML = """\
model: ResNet34
model_args: {feat_dim: 80, embed_dim: 16, m_channels: 4, num_blocks: [1, 1, 1, 1], pooling_func: TSTP}
dataset_args: {fbank_args: {num_mel_bins: 80, frame_length: 25, frame_shift: 10, dither: 1.0}, resample_rate: 16000}
"""


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """A WeSpeaker ResNet with one block in each stage, under PyTorch's names and in its layout, with random values."""
    return source_weights(CONFIG, projection=True)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, np.ndarray]) -> Path:
    """A folder with the tiny ResNet as WeSpeaker publishes it, but for the file form: safetensors and config.yaml."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "avg_model.safetensors").write_bytes(save(weights))
    (folder / "config.yaml").write_text(CONFIG_YAML)
    return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, run_process: Callable[..., Result], original: Path) -> Path:
    """`original`, converted by the command."""
    folder = tmp_path_factory.mktemp("converted") / "tiny"
    run_process([COMMAND, "convert", original, folder], folder.parent).succeeded()
    return folder


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub without repos."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub_env(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment that leads the client to `hub`, with an empty cache."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("hub-cache"))}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, voices: list[Path]) -> Path:
    """The manifest of `write_corpus`."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), voices)


@pytest.fixture(scope="module")
def expected(corpus: Path, converted: Path) -> Rows:
    """What `embed` of the tiny model gives for each clip."""
    model = speech_zoo.load(converted)
    return {f"clip {i:02}": np.array(model.embed(corpus.parent / f"{i:02}.wav")) for i in range(CLIPS)}
