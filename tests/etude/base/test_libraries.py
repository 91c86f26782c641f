import gc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import grimp
import pytest

from etude.base.libraries import quick_imports

HEAVY = ("scipy", "pandas", "sklearn", "matplotlib", "tensorflow", "dvc", "dvclive", "prefect")


def test_what_reads_trains_and_draws_a_model_imports_nothing_heavy_besides_its_libraries(root: Path) -> None:
    code = (
        "import etude.base.loading, etude.base.clip, etude.diffusion.sample, etude.training.fit, gc, sys\n"
        f"print([name for name in {HEAVY} if name in sys.modules], gc.isenabled(), gc.get_freeze_count() > 0)\n"
        "from scipy.optimize import linear_sum_assignment"  # whoever needs it gets it
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[] True True"


@pytest.mark.parametrize("first", ["diffusers", "transformers"])
def test_libraries_that_found_scipy_before_find_it_again(first: str, root: Path) -> None:
    code = f"import {first}.utils, etude.base.libraries"
    subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)


def test_scipy_and_a_collector_that_is_off_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType("scipy")
    monkeypatch.setitem(sys.modules, "scipy", there)
    gc.disable()
    try:
        with quick_imports():
            assert sys.modules["scipy"] is there
        assert sys.modules["scipy"] is there
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_diffusers_and_clip_are_imported_in_one_place() -> None:
    graph = grimp.build_graph("etude", include_external_packages=True, cache_dir=None)
    rooms = ("etude.base", "etude.diffusion", "etude.training", "etude.rendering", "etude.evaluation")
    importers = {
        name
        for library in ("diffusers", "transformers")
        for name in graph.find_modules_that_directly_import(library)
        if name.startswith(rooms)
    }
    # the others import no model: what quiets transformers, and an optimizer where it is chosen
    assert importers == {"etude.base.libraries", "etude.base.quiet", "etude.training.updates"}
