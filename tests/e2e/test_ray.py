"""`speech_zoo.Embedder` in Ray Data, on two local workers; `nox -s ray` installs Ray."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import speech_zoo

ray = pytest.importorskip("ray", reason="nox -s ray installs it")


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[None]:
    """The workers have the environment of the tests."""
    wanted = {name: environment[name] for name in ("HF_HOME", "HF_ENDPOINT", "SPEECH_ZOO_HOME")}
    os.environ["RAY_AUTH_MODE"] = "disabled"  # else it writes a token into the user's home
    ray.init(
        address="local",
        num_cpus=4,  # of them two for reading, whatever the machine has
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": wanted | {"OMP_NUM_THREADS": "1"}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


class TellingEmbedder(speech_zoo.Embedder):
    """Says which process embedded a row."""

    def __call__(self, batch: Any) -> dict[str, Any]:
        return {**super().__call__(batch), "worker": np.full(len(batch["audio"]), os.getpid())}


@pytest.mark.usefixtures("cluster")
def test_two_workers_embed_a_manifest(tmp_path: Path, voices: list[Path], converted: Path) -> None:
    lines = [{"audio": str(voice), "offset": None, "duration": None} for voice in voices]
    lines += [{"audio": str(voice), "offset": 0.5, "duration": 1.5} for voice in voices]
    lines.append({"audio": str(tmp_path / "none.wav"), "offset": None, "duration": None})
    (tmp_path / "files.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    files = ray.data.read_json(str(tmp_path / "files.jsonl"), lines=True).repartition(6)
    rows = files.map_batches(
        TellingEmbedder,
        fn_constructor_kwargs={"model": str(converted)},
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
        batch_size=4,
    ).take_all()
    assert len({row["worker"] for row in rows}) == 2
    assert len({row["worker"] for row in rows} - {os.getpid()}) == 2
    bad = [row for row in rows if row["error"]]
    assert [row["error"] for row in bad] == [f"{tmp_path}/none.wav does not exist"]
    assert np.isnan(bad[0]["embedding"]).all()

    speech_zoo.embed_manifest(tmp_path / "files.jsonl", tmp_path / "out", converted)
    expected = ray.data.read_parquet(str(tmp_path / "out"), include_paths=False).take_all()
    by_length = {(row["audio"], "#t=" in row["id"]): row["embedding"] for row in expected}
    good = {(row["audio"], row["offset"] == 0.5): row["embedding"] for row in rows if not row["error"]}
    assert good.keys() == by_length.keys()
    assert len(good) == 18
    for key, vector in good.items():
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, by_length[key], atol=1e-6)


@pytest.mark.usefixtures("cluster")
def test_arrays_go_in_and_parquet_comes_out(tmp_path: Path, voices: list[Path], converted: Path) -> None:
    model = speech_zoo.load(converted)
    samples = [soundfile.read(voice, frames=16000, start=16000, dtype="float32")[0] for voice in voices[:5]]
    clips = ray.data.from_items([{"audio": row, "sample_rate": 16000, "name": str(i)} for i, row in enumerate(samples)])
    embedded = clips.map_batches(
        speech_zoo.Embedder, fn_constructor_args=(str(converted),), compute=ray.data.ActorPoolStrategy(size=1)
    )
    embedded.drop_columns(["audio"]).write_parquet(str(tmp_path / "out"))
    rows = {row["name"]: row for row in ray.data.read_parquet(str(tmp_path / "out")).take_all()}
    assert sorted(rows) == list("01234")
    for name, row in rows.items():
        assert row["error"] == ""
        np.testing.assert_allclose(row["embedding"], np.array(model.embed(samples[int(name)], 16000)), atol=1e-6)
