"""What `import kinembed` offers: every name is there, documented, and its example runs."""

import doctest
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import kinembed

# Those that people call first show how.
SHOWN = ["KinEmbedder", "KinMetricTransformer", "score_pairs", "train_head"]


@pytest.mark.parametrize("name", kinembed.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(kinembed, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", SHOWN)
def test_examples_run(name: str) -> None:
    found = getattr(kinembed, name)
    module = import_module(found.__module__)
    finder = doctest.DocTestFinder(recurse=False)
    tests = [test for test in finder.find(found, name, module) if test.examples]
    assert tests, f"{name} shows no example"
    for test in tests:
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert result.failed == 0


def test_names_there_are_not_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Siamese'"):
        kinembed.Siamese  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys, kinembed; print([m for m in sys.modules if m.startswith('kinembed.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_listed_before_they_are_used() -> None:
    code = "import sys, kinembed; print(*dir(kinembed)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*kinembed.__all__, "__version__"} <= {*done.stdout.split()}
