"""The compiler's cache is judged by every file that machine code could be made of."""

from pathlib import Path

import gainnet
from gainnet.compiled import WITHOUT_KERNELS

PACKAGE = Path(gainnet.__file__).parent


def test_packages_whose_files_do_not_count_have_no_kernels_and_give_them_nothing() -> None:
    kernels = [path for path in PACKAGE.rglob("*.py") if "from gainnet.compiled import" in path.read_text()]
    assert kernels
    for path in kernels:
        assert path.relative_to(PACKAGE).parts[0] not in WITHOUT_KERNELS
        for name in WITHOUT_KERNELS:
            assert f"gainnet.{name}" not in path.read_text(), f"{path.name} takes something from {name}"
