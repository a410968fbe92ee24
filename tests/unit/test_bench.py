"""What the benchmark measures."""

import numpy as np
from speech_zoo.bench import measured


def test_the_memory_of_the_work_is_not_that_of_its_parent() -> None:
    mine = np.ones(100_000_000)  # 800 MB in this process
    assert measured("nothing", "pass")["peak_bytes"] < 400e6
    used = measured("half a gigabyte", "import numpy; x = numpy.ones(64_000_000)")["peak_bytes"]
    assert 512e6 < used < 512e6 + 400e6
    assert mine[-1] == 1
