"""The map of known voices."""

from pathlib import Path

import numpy as np
import pytest
from speech_zoo.plots.voices import draw, project
from speech_zoo_core.errors import SpeechZooError


def test_what_lies_in_a_plane_keeps_its_distances() -> None:
    values = np.random.default_rng(0)
    flat = values.standard_normal((20, 2)) * [3, 1]
    basis = np.linalg.qr(values.standard_normal((16, 2)))[0]
    points, shares = project((flat @ basis.T + 0.5).astype(np.float32))
    assert np.allclose(
        np.linalg.norm(points[:, None] - points[None], axis=2),
        np.linalg.norm(flat[:, None] - flat[None], axis=2),
        atol=1e-5,
    )
    assert shares.sum() == pytest.approx(1) and shares[0] > shares[1]


@pytest.mark.parametrize("rows", [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], [[1.0], [1.0], [-1.0]]])
def test_few_or_equal_vectors(rows: list[list[float]], tmp_path: Path) -> None:
    points, shares = project(np.array(rows, np.float32))
    assert points.shape == (len(rows), 2) and np.isfinite(points).all() and np.isfinite(shares).all()
    pytest.importorskip("matplotlib")
    draw([str(i) for i in range(len(rows))], np.array(rows, np.float32), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(SpeechZooError, match="a map needs two clips or more; the store has 1"):
        draw(["Ann"], np.ones((1, 2), np.float32), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
