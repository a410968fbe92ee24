"""Without Selenium these tests are left out; `nox -s browser` brings it."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("selenium") else ["test_*.py"]
